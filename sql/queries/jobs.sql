-- Transitions of jobs. Each statement carries its own guard, so that a late caller changes nothing.

-- name: claim
-- pending -> running, for at most $3 units, the most urgent first; what became fresh meanwhile is done without a call.
-- What is known of the claimed skus comes along, in rows of its own (`known` says what, `told` is it as JSON), for those of which
-- something is known:
--   listing    the cached product with its variants
--   elsewhere  what another provider lists under the sku, one with size charts first
--   asks       the median asks of the other providers by US size ('' = none), in the same currency, not older than a week: of all
--              sizes, since only a provider's code can tell which US size a `UK 9` is
--   skipped    all that was looked at had become fresh: what stands behind it may be had at once
-- An `id:` means something else at each provider.
-- $1 provider  $2 account  $3 units  $4 daemon  $5 lease (interval)
-- $6 durable: false where every request of these units is charged by a statement that begins after this one has answered. Its
-- commit then flushes this one, too, before anything leaves; a claim that a crash takes back was never used.
-- CTEs on purpose: they fence LIMIT from the planner, which else may lock more rows than it returns. Rows are found by
-- `= any (array(...))`: the planner takes such an array for ten rows, but the rows of an unknown LIMIT for a tenth of the
-- table, of which it would then read all.
-- A unit is taken by its row in market_fetches, so two daemons that hold different jobs of one product cannot both go.
-- A job that already cost a worker its life (rescues > 0) travels alone, or it would take its mates along again.
with lane as materialized (
  select s.fresh_for, p.circuit <> 'closed' or p.circuit_failures > 0 as troubled, clock_timestamp() as now_at,
         set_config('synchronous_commit', case when $6::boolean then current_setting('synchronous_commit') else 'off' end, true),
         gen_random_uuid()::text as seed,   -- with the unit's key it makes the unit's lease: fresh at each claim
         -- the priorities that may be claimed: from (null: none) .. below
         case when v.background then 0 when v.urgent then s.wake_priority end as from_priority,
         case when v.urgent and not v.background_first then 2000 else s.wake_priority end as below,
         v.background_first,
         -- after trouble one unit goes as the probe; the rest waits for its answer
         case when p.circuit = 'closed' then $3::int else 1 end as units
    from market_providers p, market_settings s, market__claimable(p, s, clock_timestamp()) v
   where p.provider = $1 and p.account = $2
), heads as materialized (
  -- a few more than are needed, for some may be fresh; where several are of one unit the next claim comes soon
  select j.id, j.unit_key, j.dedupe_key, j.provider, j.account, j.sku, j.size, j.currency,
         j.priority, j.rank, j.turn, j.run_at, j.rescues
    from market_jobs j
   where j.provider = $1 and j.account = $2 and j.status = 'pending'
     and j.priority >= (select l.from_priority from lane l) and j.priority < (select l.below from lane l)
     and not exists (select from market_fetches f where f.unit_key = j.unit_key and f.lease_expires_at > clock_timestamp())
   order by j.priority desc, j.rank desc, j.turn, j.run_at, j.id
   limit (select l.units + 9 from lane l)
   for update of j skip locked
), judged as materialized (
  -- as market__observed_at tells it, without a call of a function for each
  select h.*, coalesce(greatest(t.observed_at, (
           select p.observed_at from market_prices p
            where p.provider = h.provider and p.account = h.account and p.sku = h.sku
              and coalesce(p.size, '') = coalesce(t.price_size, h.size, '') and p.currency = h.currency))
           > clock_timestamp() - (select l.fresh_for from lane l), false) as fresh
    from heads h
    left join lateral (select x.observed_at, x.price_size from market_targets x where x.dedupe_key = h.dedupe_key limit 1) t on true
), skipped as (
  update market_jobs j set status = 'done', outcome = 'fresh', completed_at = clock_timestamp(), updated_at = clock_timestamp()
   where j.id = any (array(select d.id from judged d where d.fresh))
  returning j.id
), chosen as materialized (
  select u.* from (
    select distinct on (d.unit_key) d.* from judged d where not d.fresh
     order by d.unit_key, d.priority desc, d.rank desc, d.turn, d.run_at, d.id) u
   order by u.priority desc, u.rank desc, u.turn, u.run_at, u.id
   limit (select case when l.background_first then 1 else l.units end from lane l)
), leases as materialized (
  insert into market_fetches as f (unit_key, provider, account, sku, currency, lease_id, lease_expires_at, locked_by, claimed_at)
  select c.unit_key, c.provider, c.account, c.sku, c.currency, md5(l.seed || c.unit_key)::uuid, l.now_at + $5::interval, $4::uuid, l.now_at
    from chosen c, lane l order by c.unit_key   -- in one order everywhere, or two claims may deadlock
  on conflict (unit_key) do update set lease_id = excluded.lease_id, lease_expires_at = excluded.lease_expires_at,
    locked_by = excluded.locked_by, claimed_at = excluded.claimed_at
    where f.lease_expires_at <= clock_timestamp()
  returning f.unit_key
), leads as materialized (
  -- `is true` keeps the planner from a join that compares each with each
  select c.id, c.unit_key, c.rescues, c.sku, c.currency from chosen c where (c.unit_key in (select l.unit_key from leases l)) is true
), mates as (
  select m.id from market_jobs m
   where m.status = 'pending' and m.rescues = 0
     and m.unit_key = any (array(select l.unit_key from leads l where l.rescues = 0))
     and (m.id in (select d.id from judged d where d.fresh)) is not true
   for update of m skip locked
), claimed as (
  update market_jobs j set
    status = 'running', attempt = j.attempt + 1, lead = (j.id in (select l.id from leads l)) is true,
    lease_id = md5(l.seed || j.unit_key)::uuid, lease_expires_at = l.now_at + $5::interval, locked_by = $4::uuid,
    started_at = l.now_at, updated_at = l.now_at
    from lane l
   where j.id = any (array(select m.id from mates m union all select c.id from leads c))
     and j.status = 'pending'
  returning j.unit_key, j.lease_id, j.started_at, j.sku, j.currency, j.id, j.size, j.priority, j.attempt, j.max_attempts,
            j.run_at, j.rank, j.turn
), listed as materialized (
  select k.sku, k.provider, k.provider = $1 as own, v.charts, v.variants,
         to_jsonb(p) || jsonb_build_object('variants', v.listed) as listing
    from market_skus k join market_products p using (provider, product_id)
    cross join lateral (
      select coalesce(jsonb_agg(jsonb_build_object('id', v.variant_id, 'size', v.size, 'chart', v.chart, 'gtins', v.gtins)
                                order by v.variant_id), '[]') as listed,
             count(*) as variants, count(*) filter (where v.chart <> '{}') as charts
        from market_variants v where v.provider = p.provider and v.product_id = p.product_id) v
   where k.sku = any (array(select c.sku from leads c)) and (k.provider = $1 or k.sku not like 'id:%')
), asks as (
  select p.sku, p.currency, coalesce(p.size, '') as size,
         percentile_cont(0.5) within group (order by p.lowest_ask)::numeric as ask
    from market_prices p
   where p.sku = any (array(select c.sku from leads c)) and p.currency = any (array(select c.currency from leads c))
     and p.provider <> $1 and p.lowest_ask is not null and p.sku not like 'id:%'
     and p.observed_at > clock_timestamp() - interval '7 days'
   group by 1, 2, 3
)
select null::text as known, null::jsonb as told, c.sku, c.currency, c.unit_key, c.lease_id, c.started_at,
       (select troubled from lane) as troubled,
       c.id, c.size, c.priority, c.attempt, c.max_attempts, c.run_at
  from (select * from claimed order by priority desc, rank desc, turn, run_at, id) c
union all
select case when k.own then 'listing' else 'elsewhere' end, k.listing, k.sku, null, null, null, null, null,
       null, null, null, null, null, null
  from (select distinct on (b.sku, b.own) b.* from listed b where b.own or b.variants > 0
         order by b.sku, b.own, b.charts desc, b.provider) k
union all
select 'asks', jsonb_object_agg(a.size, a.ask), a.sku, a.currency, null, null, null, null,
       null, null, null, null, null, null
  from asks a group by a.sku, a.currency
union all
select 'skipped', null, null, null, null, null, null, null,
       null, null, null, null, null, null
 where exists (select from skipped) and not exists (select from claimed);

-- name: extend
-- Keeps the leases of many fetches under way alive. A unit that is not returned has lost its lease, and its fetch must stop.
-- $1 units  $2 their leases  $3 for how long (interval)
-- The jobs follow as far as nobody else holds their rows; the fetch's own row is the lease. One that a settle has, which may wait for
-- somebody's lock, is told as held and not extended: it shall not keep the others from being so.
-- By `in` behind `is true` (a hash), as in settle: joined, 512 leases were compared each with each, which took a third of a second.
with mine as materialized (
  select f.unit_key
    from market_fetches f
   where f.unit_key = any ($1::text[])
     and ((f.unit_key, f.lease_id) in (select * from unnest($1::text[], $2::uuid[]))) is true
   order by f.unit_key for update of f skip locked
), held as (
  update market_fetches f set lease_expires_at = clock_timestamp() + $3::interval
   where f.unit_key = any (array(select m.unit_key from mine m))
  returning f.lease_id
), free as (
  select j.id from market_jobs j where j.status = 'running' and (j.lease_id in (select h.lease_id from held h)) is true
   for update of j skip locked
), kept as (
  update market_jobs j set lease_expires_at = clock_timestamp() + $3::interval
   where j.id = any (array(select f.id from free f))
)
select h.lease_id, true as extended from held h
union all
select f.lease_id, false from market_fetches f
 where f.unit_key = any ($1::text[]) and f.lease_expires_at > clock_timestamp()
   and ((f.unit_key, f.lease_id) in (select * from unnest($1::text[], $2::uuid[]))) is true
   and (f.unit_key in (select m.unit_key from mine m)) is not true;

-- name: settle
-- running -> done | failed | deferred | pending, with prices, history, targets, products, for several fetches at once: of
-- each all, or (lease lost) nothing.
-- $1 units  $2 leases  $3 providers  $4 accounts  $5 skus of the fetches
-- jobs:   $6 fetch (its place in $1, from 1)  $7 id  $8 kind  $9 outcome  $10 price_size  $11 observed_at  $12 error_code
--         $13 message  $14 delay_s  $15 until  $16 cooldown_s
-- quotes: $17 fetch  $18 size  $19 currency  $20 lowest_ask  $21 highest_bid  $22 last_sale  $23 last_sale_at  $24 sales_72h
--         $25 basis  $26 observed_at  $27 product_id  $28 parser  $29 its last sale is unknown, so the stored one stands;
--         no two of one price (Settles sees to that)
-- $30 listings (JSON)
-- What is many comes as columns, each one text with 1F between the values and 1E for null; a column of nulls is null. JSON took a
-- third of the statement to read, and arrays of all of it a third of the daemon's time to write. Times alone are arrays, of seconds
-- since 1970, exact to the microsecond: as text each took as long to write as a job's other columns together.
-- `(select $6)` hides how many there are from the planner, which else would plan each settle for its own number, for 9 ms.
-- The delete is the fence: a worker whose lease was taken over deletes no row, and everything else asks `held`.
-- A request that came while the job ran is served only if the price was asked for late enough; else the same row goes
-- back to pending with attempt 0.
-- Where two of the CTEs meet it is by `in` behind `is true` or by a join with `held` (a hash): knowing nothing of their size the
-- planner would else compare each row with each. Nor is any text found by its place in an array, which is a walk from its start.
with gone as (
  delete from market_fetches f
   where f.unit_key = any (array(
           select l.unit_key from market_fetches l where l.unit_key = any ($1::text[]) order by l.unit_key for update))
     and (f.lease_id in (select unnest($2::uuid[]))) is true
  returning f.unit_key, f.lease_id
), held as materialized (
  -- The planner takes generate_subscripts for a thousand rows, so it hashes what meets them.
  select x.u, x.unit_key, x.provider, x.account, x.sku
    from rows from (generate_subscripts($1::text[], 1), unnest($1::text[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::text[]),
                    unnest($5::text[])) x(u, unit_key, lease_id, provider, account, sku)
   where ((x.unit_key, x.lease_id) in (select g.unit_key, g.lease_id from gone g)) is true
), given as materialized (
  select g.u, g.id, ($2::uuid[])[g.u] as lease_id, g.kind, g.outcome, g.price_size, to_timestamp(g.observed_at) as observed_at,
         g.error_code, g.message, g.delay_s, to_timestamp(g.until) as until, g.cooldown_s
    from (select unnest(string_to_array((select $6), E'\x1f', E'\x1e')::int[]) as u,
                 unnest(string_to_array((select $7), E'\x1f', E'\x1e')::bigint[]) as id,
                 unnest(string_to_array((select $8), E'\x1f', E'\x1e')) as kind,
                 unnest(string_to_array((select $9), E'\x1f', E'\x1e')) as outcome,
                 unnest(string_to_array((select $10), E'\x1f', E'\x1e')) as price_size,
                 unnest((select $11::float8[])) as observed_at,
                 unnest(string_to_array((select $12), E'\x1f', E'\x1e')) as error_code,
                 unnest(string_to_array((select $13), E'\x1f', E'\x1e')) as message,
                 unnest((select $14::float8[])) as delay_s,
                 unnest((select $15::float8[])) as until,
                 unnest((select $16::float8[])) as cooldown_s) g
   where (g.u in (select h.u from held h)) is true
), asked as materialized (
  -- What came while the job's row was in our hands, or in somebody else's: all else is in the row already.
  select r.job_id, max(r.requested_at) as last_at, max(r.priority) as priority
    from market_job_requests r where r.loose and not r.served and r.job_id = any (string_to_array((select $7), E'\x1f', E'\x1e')::bigint[]) group by r.job_id
), decided as materialized (
  select g.*, f.dedupe_key, f.claimed_at, a.priority as asked_priority, clock_timestamp() as now_at,
         case when g.kind = 'priced' and a.last_at > g.observed_at + s.fresh_for then 'again' else g.kind end as fate
    from market_settings s
    cross join (select * from given order by id offset 0) g   -- one after the other, in one order everywhere
    cross join lateral (
      select j.dedupe_key, j.started_at as claimed_at from market_jobs j
       where j.id = g.id and j.lease_id = g.lease_id   -- so it runs; to say that would invite the index of all that run
      offset 0 for update of j skip locked) f
    left join asked a on a.job_id = g.id
), jobs as (
  update market_jobs j set
    status = case d.fate when 'priced' then 'done' when 'failed' then 'failed' when 'retried' then 'deferred'
                         when 'snoozed' then 'deferred' else 'pending' end,
    outcome = case d.fate when 'priced' then d.outcome when 'failed' then 'failed' end,
    -- Who only stepped aside keeps what went wrong with it before.
    error_code = case when d.fate in ('failed', 'retried') then d.error_code when d.fate in ('released', 'snoozed') then j.error_code end,
    error_message = case when d.fate in ('failed', 'retried') then d.message when d.fate in ('released', 'snoozed') then j.error_message end,
    attempt = case when d.fate = 'again' then 0 when d.fate in ('released', 'snoozed') then greatest(0, j.attempt - 1) else j.attempt end,
    retry_at = case d.fate when 'retried' then d.now_at + make_interval(secs => d.delay_s) when 'snoozed' then d.until end,
    run_at = case d.fate when 'retried' then d.now_at + make_interval(secs => d.delay_s) when 'snoozed' then d.until
                         when 'again' then d.now_at else j.run_at end,
    priority = greatest(j.priority, coalesce(d.asked_priority, 0)),
    completed_at = case when d.fate in ('priced', 'failed') then d.now_at end,
    updated_at = d.now_at, lease_id = null, lease_expires_at = null, locked_by = null, lead = false
    from decided d where j.id = d.id
), served as (
  -- All that `asked` looked at; of others the next poll's `fold` or `reopen` tells.
  update market_job_requests r set folded = true,
         served = (r.job_id in (select d.id from decided d where d.fate in ('priced', 'failed'))) is true
    from (select a.job_id from asked a where (a.job_id in (select d.id from decided d)) is true) a
   where r.job_id = a.job_id and r.loose and not r.served
), quotes as materialized (
  select q.u, q.size, q.currency, q.lowest_ask::numeric, q.highest_bid::numeric, coalesce(q.last_sale::numeric, k.last_sale) as last_sale,
         coalesce(to_timestamp(q.last_sale_at), k.last_sale_at) as last_sale_at, q.sales_72h, coalesce(q.basis::jsonb, '{}') as basis,
         to_timestamp(q.observed_at) as observed_at, q.product_id, q.parser,
         h.provider, h.account, h.sku, h.unit_key
    from (select unnest(string_to_array((select $17), E'\x1f', E'\x1e')::int[]) as u,
                 unnest(string_to_array((select $18), E'\x1f', E'\x1e')) as size,
                 unnest(string_to_array((select $19), E'\x1f', E'\x1e')) as currency,
                 unnest(string_to_array((select $20), E'\x1f', E'\x1e')) as lowest_ask,
                 unnest(string_to_array((select $21), E'\x1f', E'\x1e')) as highest_bid,
                 unnest(string_to_array((select $22), E'\x1f', E'\x1e')) as last_sale,
                 unnest((select $23::float8[])) as last_sale_at,
                 unnest(string_to_array((select $24), E'\x1f', E'\x1e')::int[]) as sales_72h,
                 unnest(string_to_array((select $25), E'\x1f', E'\x1e')) as basis,
                 unnest((select $26::float8[])) as observed_at,
                 unnest(string_to_array((select $27), E'\x1f', E'\x1e')) as product_id,
                 unnest(string_to_array((select $28), E'\x1f', E'\x1e')::int[]) as parser,
                 unnest(string_to_array((select $29), E'\x1f', E'\x1e')::boolean[]) as sale_unknown) q
    join held h using (u)
    left join lateral (
      select p.last_sale, p.last_sale_at from market_prices p
       where q.sale_unknown and p.provider = h.provider and p.account = h.account and p.sku = h.sku
         and coalesce(p.size, '') = coalesce(q.size, '') and p.currency = q.currency and p.parser = q.parser
       limit 1) k on true
), looks as (
  -- What each size was at the look before, where the two can be compared: same kind of price, read in the same way.
  select q.u, q.size, q.observed_at, p.gap_h, p.changed
    from quotes q left join lateral (
      select date_part('epoch', q.observed_at - p.observed_at) / 3600 as gap_h,
             (p.lowest_ask, p.highest_bid, p.last_sale) is distinct from (q.lowest_ask, q.highest_bid, q.last_sale) as changed
        from market_prices p
       where p.provider = q.provider and p.account = q.account and p.sku = q.sku
         and coalesce(p.size, '') = coalesce(q.size, '') and p.currency = q.currency
         and p.observed_at < q.observed_at and p.parser = q.parser
         and market__basis_kind(p.basis) = market__basis_kind(q.basis)
       limit 1) p on true
), lessons as (
  select l.u, max(l.observed_at) as fetched_at, array_agg(l.gap_h order by l.size) filter (where l.gap_h is not null) as gaps,
         array_agg(l.changed order by l.size) filter (where l.gap_h is not null) as changed, false as failed
    from looks l group by l.u
  union all
  -- An answer without any price ("no asks") was a look, too: else the plan would ask for ever.
  select d.u, max(d.claimed_at), null::double precision[], null::boolean[], false
    from decided d where d.kind = 'priced' and d.u not in (select q.u from quotes q) group by d.u
  union all
  select distinct g.u, null::timestamptz, null::double precision[], null::boolean[], true
    from given g where g.kind in ('failed', 'retried') and g.u not in (select q.u from quotes q)
), learned as materialized (
  select market__learn(h.unit_key, h.provider, h.account, h.sku, l.fetched_at, l.gaps, l.changed, l.failed)
    from lessons l join held h using (u)
   where l.gaps is not null or exists (select from market_units m where m.unit_key = h.unit_key)
   order by h.unit_key, l.failed
), prices as materialized (
  -- An older observation never replaces a newer one.
  insert into market_prices as p (provider, account, sku, size, currency, product_id, lowest_ask, highest_bid, last_sale,
                                  last_sale_at, sales_72h, basis, parser, observed_at, changed_at)
  select provider, account, sku, size, currency, product_id, lowest_ask, highest_bid, last_sale, last_sale_at, sales_72h,
         basis, parser, observed_at, observed_at from quotes
   order by sku, currency, provider, account, size   -- in one order everywhere: two units of a product may bring the same price
  on conflict (provider, account, sku, (coalesce(size, '')), currency) do update set
    product_id = coalesce(excluded.product_id, p.product_id), lowest_ask = excluded.lowest_ask, highest_bid = excluded.highest_bid,
    last_sale = excluded.last_sale, last_sale_at = excluded.last_sale_at, sales_72h = excluded.sales_72h,
    basis = excluded.basis, parser = excluded.parser, observed_at = excluded.observed_at, updated_at = clock_timestamp(),
    changed_at = case when (p.lowest_ask, p.highest_bid, p.last_sale, p.basis) is distinct from
                           (excluded.lowest_ask, excluded.highest_bid, excluded.last_sale, excluded.basis)
                      then excluded.observed_at else p.changed_at end
    where p.observed_at < excluded.observed_at
  returning p.provider, p.account, p.sku, p.size, p.currency, p.lowest_ask, p.highest_bid, p.last_sale, p.basis, p.observed_at,
            p.changed_at = p.observed_at as changed
), history as (
  insert into market_price_history (provider, account, sku, size, currency, lowest_ask, highest_bid, last_sale, basis, observed_at)
  select provider, account, sku, size, currency, lowest_ask, highest_bid, last_sale, basis, observed_at
    from prices where changed   -- each was newer than what its row held, so none is there already
), targets_own as (
  -- What these fetches told of the targets that they were asked for.
  update market_targets t set
    last_attempt_at = o.now_at,
    observed_at = case when o.kind = 'priced' then greatest(t.observed_at, o.observed_at) else t.observed_at end,
    last_success_at = case when o.kind = 'priced' then o.now_at else t.last_success_at end,
    last_outcome = case when o.kind = 'priced' then o.outcome else t.last_outcome end,
    price_size = case when o.kind = 'priced' then o.price_size else t.price_size end,
    last_error_at = case when o.kind in ('failed', 'retried') then o.now_at else t.last_error_at end,
    last_error_code = case when o.kind in ('failed', 'retried') then o.error_code else t.last_error_code end,
    last_error_message = case when o.kind in ('failed', 'retried') then o.message else t.last_error_message end,
    retry_at = case when o.kind = 'priced' then null
                    when o.kind = 'failed' and o.cooldown_s > 0 then o.now_at + make_interval(secs => o.cooldown_s)
                    else t.retry_at end,
    overridden_at = case when o.kind = 'failed' and t.retry_at > o.claimed_at then o.claimed_at else t.overridden_at end
    from decided o where t.dedupe_key = o.dedupe_key and o.kind in ('priced', 'failed', 'retried')
), targets_mates as (
  -- Other known targets of the same product whose size a fetch also brought.
  update market_targets t set observed_at = greatest(t.observed_at, q.observed_at), last_success_at = clock_timestamp(),
    last_outcome = case when q.lowest_ask is null then 'no_asks' else 'priced' end, price_size = q.size, retry_at = null
    from (select m.dedupe_key, m.unit_key, m.currency, coalesce(m.price_size, m.size) as size from market_targets m
           where m.sku = any (array(select h.sku from held h)) and (m.dedupe_key in (select o.dedupe_key from decided o)) is not true offset 0) m
    join quotes q on q.unit_key = m.unit_key and q.currency = m.currency and q.size = m.size
   where t.dedupe_key = m.dedupe_key
), listed as materialized (
  select market__keep_listings($30::jsonb, array(select h.u from held h), $3::text[], $5::text[]) where $30::jsonb <> '[]'
), told as (
  -- Apps hear of changed prices; one message per product, in pieces that keep clear of NOTIFY's 8,000 bytes.
  select count(pg_notify('market_prices', row_to_json(c)::text)) as n
    from (select n.provider, n.sku, n.currency, json_agg(n.price order by n.i) as prices
            from (select p.provider, p.account, p.sku, p.currency, x as price,
                         row_number() over (partition by p.provider, p.account, p.sku, p.currency order by p.size) as i
                    from prices p cross join lateral (select p.size, p.lowest_ask, p.highest_bid, p.last_sale, p.observed_at) x
                   where p.changed) n
           group by n.provider, n.account, n.sku, n.currency, (n.i - 1) / 30) c
)
-- One row: the fetches that were ours; their jobs; the product of each stored and of each changed price. The rest is looked at
-- because CTEs that are not do not run.
select (select array_agg(h.u) from held h) as held, d.jobs, p.stored, p.changed,
       t.n as told, (select count(*) from learned) as learned, (select count(*) from listed) as listed
  from (select array_agg(d.id) as jobs from decided d) d,
       (select array_agg(p.product) as stored, array_agg(p.product) filter (where p.changed) as changed
          from (select concat_ws('|', p.provider, p.account, p.sku, p.currency) as product, p.changed from prices p) p) p,
       told t;

-- name: give_up
-- The end of a fetch that could not be settled in time, for no fault of its jobs: without its row `rescue` takes them up for
-- nothing, when their own leases have run out. $1 unit  $2 lease
delete from market_fetches where unit_key = $1 and lease_id = $2;

-- name: rescue
-- running -> pending: whose lease ran out, its worker is dead or cut off. The job for which the unit was claimed pays a
-- rescue, its mates do not; too many make it poison: failed, with the reason. Where workers die of something else (kills,
-- a machine without memory, an outage), a job may be there several times by chance: as long as it was there at less than
-- three in four of the deaths since it became a suspect, it is given three times as many rescues.
-- One that settle passed over, because somebody held its row, or that could not be settled (`give_up`), pays nothing: the row of its
-- fetch is gone, and its daemon lives.
-- (That of a dead daemon's fetch may be gone, too: the next claim of the unit takes it.)
with expired as (
  select j.id, j.unit_key, j.lease_id, j.locked_by, j.suspect_since, j.rescues + 1 as deaths, s.max_rescues,
         clock_timestamp() as now_at,
         j.lead and (exists (select from market_fetches f where f.unit_key = j.unit_key and f.lease_id = j.lease_id)
                     or not exists (select from market_daemons d
                                     where d.daemon_id = j.locked_by and d.alive_until > clock_timestamp())) as pays
    from market_jobs j, market_settings s
   where j.status = 'running' and j.lease_expires_at < (select clock_timestamp())   -- bare, it is no index condition
     -- the fetch's own row is the lease; a job's lags behind when somebody held the job's row at an extension
     and not exists (select from market_fetches f where f.unit_key = j.unit_key and f.lease_id = j.lease_id
                      and f.lease_expires_at > clock_timestamp())
   order by j.lease_expires_at limit 500
   for update of j skip locked
), judged as (
  select e.*, e.pays and e.deaths > e.max_rescues and (
           e.deaths > 3 * e.max_rescues
           or 4 * e.deaths >= 3 * (select count(*) from market_daemons d
                                    where d.died_at >= e.suspect_since or d.daemon_id = e.locked_by)) as poison
    from expired e
), freed as (
  delete from market_fetches f using (select distinct unit_key, lease_id from expired) e
   where f.unit_key = e.unit_key and f.lease_id = e.lease_id
), buried as (
  update market_daemons d set died_at = (select min(e.now_at) from expired e)
   where d.died_at is null and d.daemon_id in (select e.locked_by from expired e where e.pays)
)
update market_jobs j set
  status = case when e.poison then 'failed' else 'pending' end,
  rescues = j.rescues + e.pays::int, attempt = greatest(0, j.attempt - 1), lead = false,
  suspect_since = coalesce(j.suspect_since, case when e.pays then (select min(x.now_at) from expired x) end),
  lease_id = null, lease_expires_at = null, locked_by = null,
  run_at = case when e.poison then j.run_at else clock_timestamp() end,
  error_code = case when e.poison then 'poison' end,
  error_message = case when e.poison then format('its worker died %s times while fetching it', e.deaths) end,
  outcome = case when e.poison then 'failed' end,
  completed_at = case when e.poison then clock_timestamp() end, updated_at = clock_timestamp()
  from judged e where j.id = e.id and j.id = any (array(select x.id from expired x))
returning j.id, j.provider, j.account, j.status, j.rescues;

-- name: release_daemon
-- running -> pending for all that this daemon still holds, attempts refunded: the last act of a shutdown.
with gone as (
  delete from market_fetches where locked_by = $1::uuid
), free as (
  select j.id from market_jobs j where j.status = 'running' and j.locked_by = $1::uuid for update of j skip locked
)
update market_jobs j set status = 'pending', attempt = greatest(0, j.attempt - 1), lead = false,
  lease_id = null, lease_expires_at = null, locked_by = null, updated_at = clock_timestamp()
  from free f where j.id = f.id
returning j.id;

-- name: poll
-- The statement of an idle daemon: says it lives, promotes what became due, and tells each lane whether there is work, when
-- the next is due, and whether `fold` has something to do (its own statement: it changes rows that this one reads). $1 daemon
-- $2 alive for (interval)
with beat as (
  update market_daemons set alive_until = clock_timestamp() + $2::interval where daemon_id = $1::uuid
), due as (
  select j.id, row_number() over (partition by j.provider, j.account, j.priority, coalesce(j.user_id, '') order by j.run_at, j.id) - 1 as place
    from (select * from market_jobs where status = 'deferred' and run_at <= (select clock_timestamp())   -- for the index
           order by run_at limit 1000 for update skip locked) j
), promoted as (
  update market_jobs j set status = 'pending', retry_at = null,
    turn = market__turn(j.provider, j.account, j.priority, j.user_id) + d.place, updated_at = clock_timestamp()
    from due d where j.id = d.id and j.id = any (array(select x.id from due x))   -- by key, however many the planner expects
  returning j.provider, j.account
)
select p.provider, p.account,
       -- min() and not EXISTS, which may be planned as a walk through the whole table
       (select min(j.priority) from market_jobs j where j.provider = p.provider and j.account = p.account and j.status = 'pending') is not null
         or exists (select from promoted q where q.provider = p.provider and q.account = p.account) as ready,
       -- null when nothing will be due; what is due and was not promoted is in somebody's hands and no reason to hurry
       case when (select count(*) from due) = 1000 then 0   -- perhaps more are due: again at once
            else (select date_part('epoch', min(j.run_at) - clock_timestamp()) from market_jobs j
                   where j.status = 'deferred' and j.run_at > (select clock_timestamp())) end as next_due_s,
       (select min(r.job_id) from market_job_requests r where not r.folded) is not null as unfolded,
       -- of these an urgent one, whose job waits: somebody holds its row
       (select max(r.priority) from market_job_requests r
         where not r.folded and exists (select from market_jobs j where j.id = r.job_id and j.status in ('pending', 'deferred')))
         >= (select s.wake_priority from market_settings s) as held_up
  from market_providers p where p.enabled;

-- name: beat
-- The daemon lives, which it says with each poll too. $1 daemon  $2 alive for (interval)
update market_daemons set alive_until = clock_timestamp() + $2::interval where daemon_id = $1::uuid;

-- name: next_chance
-- Seconds until the lane could claim something that waits now; no row or null: nothing waits.
-- $1 provider  $2 account
select min(greatest(0, coalesce(date_part('epoch', v.until - clock_timestamp()), case when v.reason is null then 0 else 3600 end)))
  from market_providers p cross join market_settings s cross join (values (true), (false)) u(urgent)
  cross join lateral market__verdict(p, s, u.urgent, clock_timestamp()) v
 where p.provider = $1 and p.account = $2
   and case when u.urgent
         then (select max(j.priority) from market_jobs j where j.provider = $1 and j.account = $2 and j.status = 'pending') >= s.wake_priority
         else (select min(j.priority) from market_jobs j where j.provider = $1 and j.account = $2 and j.status = 'pending') < s.wake_priority
       end;

-- name: reopen
-- done | failed -> pending: a request that was committed only after its job had ended.
select market_reopen();

-- name: fold
-- Requests that met a locked row reach their jobs.
select market_fold_requests();

-- name: enrich
-- One step through the skus, which are too many for one statement. $1 fetches to queue at most  $2 the sku before
select queued, after from market__enrich(null, $1, $2);

-- name: finished_since
-- What ended between two passes of the scheduler, for the audit row.
select count(*)::int as selected,
       count(*) filter (where status = 'done')::int as succeeded,
       count(*) filter (where status = 'failed')::int as failed
  from market_jobs where status in ('done', 'failed') and completed_at > $1 and completed_at <= $2;

-- name: gauges
-- Open jobs of each account by state and band, and the age of the oldest that could run. What waits may be a million: it is counted within the
-- claim's index, a range for each band, without a look at the table.
with bands as (
  select b.* from market_settings s
    cross join lateral (values ('manual', 200, 1001), ('hot', s.wake_priority, 200), ('background', 0, least(s.wake_priority, 200)))
      b(band, low, below)
), counted as (
  select p.provider, p.account, 'pending' as status, b.band, w.jobs, date_part('epoch', clock_timestamp() - w.oldest) as oldest_ready_s
    from market_providers p cross join bands b
    cross join lateral (
      select count(*) as jobs, min(j.run_at) as oldest from market_jobs j
       where j.provider = p.provider and j.account = p.account and j.status = 'pending'
         and j.priority >= b.low and j.priority < b.below) w
   where w.jobs > 0
  union all
  select j.provider, j.account, 'running', b.band, 1, null
    from market_jobs j join bands b on j.priority >= b.low and j.priority < b.below where j.status = 'running'
  union all
  select j.provider, j.account, 'deferred', b.band, 1, null
    from market_jobs j join bands b on j.priority >= b.low and j.priority < b.below where j.status = 'deferred'
)
select provider, account, status, band, sum(jobs)::int as jobs, greatest(0, max(oldest_ready_s)) as oldest_ready_s
  from counted group by 1, 2, 3, 4;
