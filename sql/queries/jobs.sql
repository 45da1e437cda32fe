-- Transitions of jobs. Each statement carries its own guard, so that a late caller changes nothing.

-- name: claim
-- pending -> running, for at most $3 units, the most urgent first; what became fresh meanwhile is done without a call.
-- $1 provider  $2 account  $3 units  $4 daemon  $5 lease (interval)
-- CTEs on purpose: they fence LIMIT from the planner, which else may lock more rows than it returns. Rows are found by
-- `= any (array(...))`: the planner takes such an array for ten rows, but the rows of an unknown LIMIT for a tenth of the
-- table, of which it would then read all.
-- A unit is taken by its row in market_fetches, so two daemons that hold different jobs of one product cannot both go.
-- A job that already cost a worker its life (rescues > 0) travels alone, or it would take its mates along again.
with settings as (
  select * from market_settings
), lane as materialized (
  select s as settings, p.circuit <> 'closed' or p.circuit_failures > 0 as troubled, clock_timestamp() as now_at,
         (select v.reason is null from market__verdict(p, s, true, clock_timestamp()) v) as urgent,
         (select v.reason is null from market__verdict(p, s, false, clock_timestamp()) v) as background,
         -- after trouble one unit goes as the probe; the rest waits for its answer
         case when p.circuit = 'closed' then $3::int else 1 end as units
    from market_providers p, settings s where p.provider = $1 and p.account = $2
), heads as materialized (
  -- more than are needed, for several may be of one unit, or fresh
  select j.id, j.unit_key, j.dedupe_key, j.provider, j.account, j.sku, j.size, j.currency,
         j.priority, j.rank, j.turn, j.run_at, j.rescues
    from market_jobs j
   where j.provider = $1 and j.account = $2 and j.status = 'pending'
     and j.priority >= (select case when l.background then 0 when l.urgent then (l.settings).wake_priority end from lane l)
     and j.priority < (select case when l.urgent then 2000 when l.background then (l.settings).wake_priority end from lane l)
     and not exists (select from market_fetches f where f.unit_key = j.unit_key and f.lease_expires_at > clock_timestamp())
   order by j.priority desc, j.rank desc, j.turn, j.run_at, j.id
   limit (select l.units * 2 + 8 from lane l)
   for update of j skip locked
), judged as materialized (
  -- as market__observed_at tells it, without a call of a function for each
  select h.*, coalesce(greatest(t.observed_at, (
           select p.observed_at from market_prices p
            where p.provider = h.provider and p.account = h.account and p.sku = h.sku
              and coalesce(p.size, '') = coalesce(t.price_size, h.size, '') and p.currency = h.currency))
           > clock_timestamp() - s.fresh_for, false) as fresh
    from heads h cross join settings s
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
   limit (select l.units from lane l)
), leases as materialized (
  insert into market_fetches as f (unit_key, provider, account, sku, currency, lease_id, lease_expires_at, locked_by, claimed_at)
  select c.unit_key, c.provider, c.account, c.sku, c.currency, gen_random_uuid(), clock_timestamp() + $5::interval, $4::uuid, clock_timestamp()
    from chosen c order by c.unit_key   -- in one order everywhere, or two claims may deadlock
  on conflict (unit_key) do update set lease_id = excluded.lease_id, lease_expires_at = excluded.lease_expires_at,
    locked_by = excluded.locked_by, claimed_at = excluded.claimed_at
    where f.lease_expires_at <= clock_timestamp()
  returning f.unit_key, f.lease_id, f.lease_expires_at, f.claimed_at
), mates as (
  select m.id from market_jobs m
   where m.status = 'pending' and m.rescues = 0
     and m.unit_key = any (array(select l.unit_key from leases l join chosen c using (unit_key) where c.rescues = 0))
   for update of m skip locked
), claimed as (
  update market_jobs j set
    status = 'running', attempt = j.attempt + 1, lead = j.id in (select c.id from chosen c),
    lease_id = l.lease_id, lease_expires_at = l.lease_expires_at, locked_by = $4::uuid,
    started_at = l.claimed_at, updated_at = l.claimed_at
    from leases l
   where j.id = any (array((select m.id from mates m union select c.id from chosen c join leases using (unit_key))
                           except select d.id from judged d where d.fresh))
     and l.unit_key = j.unit_key and j.status = 'pending'
  returning j.*
)
select c.unit_key, c.lease_id, c.started_at as claimed_at, c.provider, c.account, c.sku, c.currency, c.id, c.size, c.priority,
       c.attempt, c.max_attempts, c.rescues, c.run_at as due_at, (select troubled from lane) as troubled,
       -- what earlier fetches learnt, once a unit: the cached product with its variants (null when the sku was never found),
       case when c.lead then (
         select (to_jsonb(p) || jsonb_build_object('variants',
                  (select coalesce(jsonb_agg(jsonb_build_object('id', v.variant_id, 'size', v.size, 'chart', v.chart,
                                                                'gtins', v.gtins) order by v.variant_id), '[]')
                     from market_variants v where v.provider = p.provider and v.product_id = p.product_id)))::text
           from market_skus k join market_products p using (provider, product_id)
          where k.provider = c.provider and k.sku = c.sku) end as listing,
       -- and the median ask of the other providers for the same item and currency, not older than a week
       case when c.lead then (
         select percentile_cont(0.5) within group (order by p.lowest_ask)::numeric
           from market_prices p
          where p.sku = c.sku and p.provider <> c.provider and p.currency = c.currency and p.lowest_ask is not null
            and p.observed_at > clock_timestamp() - interval '7 days'
            and coalesce(p.size, '') = coalesce(c.size, '')) end as reference
  from claimed c order by c.priority desc, c.rank desc, c.turn, c.run_at, c.id;

-- name: extend
-- Keeps a lease alive while its fetch runs. No row: it is lost, and the fetch must stop.
-- The jobs follow as far as nobody else holds their rows; the fetch's own row is the lease.
with held as (
  update market_fetches set lease_expires_at = clock_timestamp() + $3::interval
   where unit_key = $1 and lease_id = $2::uuid
  returning lease_id, lease_expires_at
), free as (
  select j.id from market_jobs j join held h on j.lease_id = h.lease_id where j.status = 'running'
   for update of j skip locked
), kept as (
  update market_jobs j set lease_expires_at = h.lease_expires_at from free f, held h where j.id = f.id
)
select lease_expires_at from held;

-- name: settle
-- running -> done | failed | deferred | pending, with prices, history, targets, products: all, or (lease lost) nothing.
-- $1 unit  $2 lease  $3 jobs  $4 quotes  $5 listing or null   (JSON; shapes below)
-- The delete is the fence: a worker whose lease was taken over deletes no row, and everything else joins that row.
-- A request that came while the job ran is served only if the price was asked for late enough; else the same row goes
-- back to pending with attempt 0.
with held as (
  delete from market_fetches where unit_key = $1 and lease_id = $2::uuid
  returning unit_key, provider, account, sku, currency, lease_id, claimed_at
), settings as (
  select * from market_settings
), given as materialized (
  select g.*, h.lease_id, h.claimed_at
    from held h, jsonb_to_recordset($3::jsonb) as g(
      id bigint, kind text, outcome text, price_size text, observed_at timestamptz, error_code text, message text,
      delay_s double precision, until timestamptz, cooldown_s double precision)
), free as materialized (
  select j.id from market_jobs j join given g on g.id = j.id and j.lease_id = g.lease_id
   where j.status = 'running' order by j.id for update of j skip locked
), asked as materialized (
  select r.job_id, max(r.requested_at) as last_at, max(r.priority) as priority
    from market_job_requests r where r.job_id in (select id from free) and not r.served group by r.job_id
), decided as materialized (
  select g.*, a.priority as asked_priority,
         case
           when g.kind = 'priced' and a.last_at > g.observed_at + s.fresh_for then 'again'
           else g.kind
         end as fate
    from free f join given g using (id) cross join settings s left join asked a on a.job_id = g.id
), jobs as (
  update market_jobs j set
    status = case d.fate when 'priced' then 'done' when 'failed' then 'failed' when 'retried' then 'deferred'
                         when 'snoozed' then 'deferred' else 'pending' end,
    outcome = case d.fate when 'priced' then d.outcome when 'failed' then 'failed' end,
    error_code = case when d.fate in ('failed', 'retried') then d.error_code end,
    error_message = case when d.fate in ('failed', 'retried') then d.message end,
    attempt = case when d.fate = 'again' then 0 when d.fate in ('released', 'snoozed') then greatest(0, j.attempt - 1) else j.attempt end,
    retry_at = case d.fate when 'retried' then clock_timestamp() + make_interval(secs => d.delay_s) when 'snoozed' then d.until end,
    run_at = case d.fate when 'retried' then clock_timestamp() + make_interval(secs => d.delay_s) when 'snoozed' then d.until
                         when 'again' then clock_timestamp() else j.run_at end,
    priority = greatest(j.priority, coalesce(d.asked_priority, 0)),
    completed_at = case when d.fate in ('priced', 'failed') then clock_timestamp() end,
    updated_at = clock_timestamp(), lease_id = null, lease_expires_at = null, locked_by = null, lead = false
    from decided d where j.id = d.id
  returning j.id, j.dedupe_key, j.status, j.size, d.fate
), served as (
  update market_job_requests r set served = true
    from jobs j where r.job_id = j.id and j.status in ('done', 'failed') and not r.served
), quotes as materialized (
  -- one quote per size, whatever the provider repeats: a row is upserted once
  select distinct on (coalesce(q.size, ''), q.currency) q.*, h.provider, h.account, h.sku
    from held h, jsonb_to_recordset($4::jsonb) as q(
      size text, currency text, lowest_ask numeric, highest_bid numeric, last_sale numeric, last_sale_at timestamptz,
      sales_72h int, basis jsonb, observed_at timestamptz, product_id text, parser int)
   order by coalesce(q.size, ''), q.currency, q.observed_at desc
), before as materialized (
  -- What each size was at the look before, where the two can be compared: same kind of price, read in the same way.
  select date_part('epoch', q.observed_at - p.observed_at) / 3600 as gap_h,
         (p.lowest_ask, p.highest_bid, p.last_sale) is distinct from (q.lowest_ask, q.highest_bid, q.last_sale) as changed
    from quotes q join market_prices p on p.provider = q.provider and p.account = q.account and p.sku = q.sku
         and coalesce(p.size, '') = coalesce(q.size, '') and p.currency = q.currency
   where p.observed_at < q.observed_at and p.parser = coalesce(q.parser, 1)
     and market__basis_kind(p.basis) = market__basis_kind(q.basis)
   order by q.size
), learned as materialized (
  select market__learn(h.unit_key, h.provider, h.account, h.sku, (select max(q.observed_at) from quotes q),
           (select array_agg(b.gap_h) from before b), (select array_agg(b.changed) from before b),
           (select coalesce(bool_or(g.kind in ('failed', 'retried')), false) from given g)) as learned
    from held h
), prices as (
  -- An older observation never replaces a newer one.
  insert into market_prices as p (provider, account, sku, size, currency, product_id, lowest_ask, highest_bid, last_sale,
                                  last_sale_at, sales_72h, basis, parser, observed_at, changed_at)
  select provider, account, sku, size, currency, product_id, lowest_ask, highest_bid, last_sale, last_sale_at, sales_72h,
         basis, coalesce(parser, 1), observed_at, observed_at from quotes order by size
  on conflict (provider, account, sku, (coalesce(size, '')), currency) do update set
    product_id = coalesce(excluded.product_id, p.product_id), lowest_ask = excluded.lowest_ask, highest_bid = excluded.highest_bid,
    last_sale = excluded.last_sale, last_sale_at = excluded.last_sale_at, sales_72h = excluded.sales_72h,
    basis = excluded.basis, parser = excluded.parser, observed_at = excluded.observed_at, updated_at = clock_timestamp(),
    changed_at = case when (p.lowest_ask, p.highest_bid, p.last_sale, p.basis) is distinct from
                           (excluded.lowest_ask, excluded.highest_bid, excluded.last_sale, excluded.basis)
                      then excluded.observed_at else p.changed_at end
    where p.observed_at < excluded.observed_at
  returning p.*
), history as (
  insert into market_price_history (provider, account, sku, size, currency, lowest_ask, highest_bid, last_sale, basis, observed_at)
  select provider, account, sku, size, currency, lowest_ask, highest_bid, last_sale, basis, observed_at
    from prices where changed_at = observed_at
  on conflict do nothing
), own as (
  -- What this fetch told of the targets it was asked for.
  select j.dedupe_key, g.kind, g.outcome, g.price_size, g.observed_at, g.error_code, g.message, g.cooldown_s, g.claimed_at
    from jobs j join given g using (id)
), targets_own as (
  update market_targets t set
    last_attempt_at = clock_timestamp(),
    observed_at = case when o.kind = 'priced' then greatest(t.observed_at, o.observed_at) else t.observed_at end,
    last_success_at = case when o.kind = 'priced' then clock_timestamp() else t.last_success_at end,
    last_outcome = case when o.kind = 'priced' then o.outcome else t.last_outcome end,
    price_size = case when o.kind = 'priced' then o.price_size else t.price_size end,
    last_error_at = case when o.kind in ('failed', 'retried') then clock_timestamp() else t.last_error_at end,
    last_error_code = case when o.kind in ('failed', 'retried') then o.error_code else t.last_error_code end,
    last_error_message = case when o.kind in ('failed', 'retried') then o.message else t.last_error_message end,
    retry_at = case when o.kind = 'priced' then null
                    when o.kind = 'failed' and o.cooldown_s > 0 then clock_timestamp() + make_interval(secs => o.cooldown_s)
                    else t.retry_at end,
    overridden_at = case when o.kind = 'failed' and t.retry_at > o.claimed_at then o.claimed_at else t.overridden_at end
    from own o where t.dedupe_key = o.dedupe_key and o.kind in ('priced', 'failed', 'retried')
), targets_mates as (
  -- Other known targets of the same product whose size this fetch also brought.
  update market_targets t set observed_at = greatest(t.observed_at, q.observed_at), last_success_at = clock_timestamp(),
    last_outcome = case when q.lowest_ask is null then 'no_asks' else 'priced' end, price_size = q.size, retry_at = null
    from quotes q, held h
   where t.unit_key = h.unit_key and t.currency = q.currency and coalesce(t.price_size, t.size) = q.size
     and t.dedupe_key not in (select dedupe_key from own)
), listing as materialized (
  select l.*, h.provider, h.sku from held h, jsonb_to_record($5::jsonb) as l(
    id text, style_code text, name text, brand text, category text, gender text, image_url text, url text,
    details jsonb, variants jsonb) where $5::jsonb is not null
), product as (
  insert into market_products as p (provider, product_id, style_code, name, brand, category, gender, image_url, url, details)
  select provider, id, style_code, name, brand, category, gender, image_url, url, coalesce(details, '{}') from listing
  on conflict (provider, product_id) do update set
    style_code = coalesce(excluded.style_code, p.style_code), name = coalesce(excluded.name, p.name),
    brand = coalesce(excluded.brand, p.brand), category = coalesce(excluded.category, p.category),
    gender = coalesce(excluded.gender, p.gender), image_url = coalesce(excluded.image_url, p.image_url),
    url = coalesce(excluded.url, p.url), details = p.details || excluded.details, updated_at = clock_timestamp()
), mapped as (
  insert into market_skus (provider, sku, product_id) select provider, sku, id from listing
  on conflict (provider, sku) do update set product_id = excluded.product_id, mapped_at = clock_timestamp()
), variants as (
  insert into market_variants (provider, product_id, variant_id, size, chart, gtins)
  select distinct on (v.id) l.provider, l.id, v.id, v.size, coalesce(v.chart, '{}'), coalesce(v.gtins, '{}')
    from listing l, jsonb_to_recordset(l.variants) as v(id text, size text, chart jsonb, gtins text[])
  on conflict (provider, product_id, variant_id) do update set
    size = excluded.size, chart = excluded.chart, gtins = excluded.gtins, updated_at = clock_timestamp()
), told as (
  -- Apps hear of changed prices; one message per fetch, in pieces that keep clear of NOTIFY's 8,000 bytes.
  select count(pg_notify('market_prices', json_build_object('provider', c.provider, 'sku', c.sku, 'currency', c.currency,
           'prices', c.prices)::text)) as n
    from (select n.provider, n.sku, n.currency, json_agg(json_build_object('size', n.size, 'lowest_ask', n.lowest_ask,
                 'highest_bid', n.highest_bid, 'last_sale', n.last_sale, 'observed_at', n.observed_at) order by n.i) as prices
            from (select p.*, row_number() over (order by p.size) as i from prices p where p.changed_at = p.observed_at) n
           group by n.provider, n.sku, n.currency, (n.i - 1) / 30) c
)
select (select count(*) from held) as held,
       (select count(*) from prices where changed_at = observed_at) as changed,
       (select coalesce(array_agg(id), '{}') from jobs) as settled,
       (select coalesce(array_agg(id), '{}') from jobs where fate = 'again') as again,
       (select n from told) as notified, (select bool_or(learned) from learned) as learned;

-- name: rescue
-- running -> pending: whose lease ran out, its worker is dead or cut off. The job for which the unit was claimed pays a
-- rescue, its mates do not; too many make it poison: failed, with the reason.
with expired as (
  select j.id, j.unit_key, j.lease_id, j.lead and j.rescues + 1 > s.max_rescues as poison
    from market_jobs j, market_settings s
   where j.status = 'running' and j.lease_expires_at < clock_timestamp()
     -- the fetch's own row is the lease; a job's lags behind when somebody held the job's row at an extension
     and not exists (select from market_fetches f where f.unit_key = j.unit_key and f.lease_id = j.lease_id
                      and f.lease_expires_at > clock_timestamp())
   order by j.lease_expires_at limit 500
   for update of j skip locked
), freed as (
  delete from market_fetches f using (select distinct unit_key, lease_id from expired) e
   where f.unit_key = e.unit_key and f.lease_id = e.lease_id
)
update market_jobs j set
  status = case when e.poison then 'failed' else 'pending' end,
  rescues = j.rescues + j.lead::int, attempt = greatest(0, j.attempt - 1), lead = false,
  lease_id = null, lease_expires_at = null, locked_by = null,
  run_at = case when e.poison then j.run_at else clock_timestamp() end,
  error_code = case when e.poison then 'poison' end,
  error_message = case when e.poison then format('its worker died %s times while fetching it', j.rescues + 1) end,
  outcome = case when e.poison then 'failed' end,
  completed_at = case when e.poison then clock_timestamp() end, updated_at = clock_timestamp()
  from expired e where j.id = e.id
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
-- The statement of an idle daemon: says it lives, promotes what became due, and tells each lane whether there is work and when the next is due. $1 daemon  $2 alive for (interval)
with beat as (
  update market_daemons set alive_until = clock_timestamp() + $2::interval where daemon_id = $1::uuid
), due as (
  select j.id, row_number() over (partition by j.provider, j.account, j.priority, coalesce(j.user_id, '') order by j.run_at, j.id) - 1 as place
    from (select * from market_jobs where status = 'deferred' and run_at <= clock_timestamp()
           order by run_at limit 1000 for update skip locked) j
), promoted as (
  update market_jobs j set status = 'pending', retry_at = null,
    turn = market__turn(j.provider, j.account, j.priority, j.user_id) + d.place, updated_at = clock_timestamp()
    from due d where j.id = d.id
  returning j.provider, j.account
)
select p.provider, p.account,
       exists (select from market_jobs j where j.provider = p.provider and j.account = p.account and j.status = 'pending')
         or exists (select from promoted q where q.provider = p.provider and q.account = p.account) as ready,
       (select greatest(0, date_part('epoch', min(x.run_at) - clock_timestamp())) from (
          select j.run_at from market_jobs j where j.status = 'deferred' and j.run_at > clock_timestamp()
           order by j.run_at limit 1) x) as next_due_s,
       (select greatest(0, date_part('epoch', v.until - clock_timestamp()))
          from market_settings s, market__verdict(p, s, true, clock_timestamp()) v) as urgent_in_s,
       (select greatest(0, date_part('epoch', v.until - clock_timestamp()))
          from market_settings s, market__verdict(p, s, false, clock_timestamp()) v) as background_in_s
  from market_providers p where p.enabled;

-- name: next_chance
-- Seconds until the lane could claim something that waits now; no row or null: nothing waits.
-- $1 provider  $2 account
select min(greatest(0, coalesce(date_part('epoch', v.until - clock_timestamp()), case when v.reason is null then 0 else 3600 end)))
  from market_providers p cross join market_settings s cross join (values (true), (false)) u(urgent)
  cross join lateral market__verdict(p, s, u.urgent, clock_timestamp()) v
 where p.provider = $1 and p.account = $2
   and exists (select from market_jobs j where j.provider = $1 and j.account = $2 and j.status = 'pending'
                and (j.priority >= s.wake_priority) = u.urgent);

-- name: reopen
-- done | failed -> pending: a request that was committed only after its job had ended.
select market_reopen();

-- name: fold
-- Requests that met a locked row reach their jobs.
select market_fold_requests();

-- name: finished_since
-- What ended between two passes of the scheduler, for the audit row.
select count(*)::int as selected,
       count(*) filter (where status = 'done')::int as succeeded,
       count(*) filter (where status = 'failed')::int as failed
  from market_jobs where status in ('done', 'failed') and completed_at > $1 and completed_at <= $2;

-- name: gauges
-- Jobs by state and band, and the age of the oldest that could run.
select provider, status, band, sum(jobs)::int as jobs, max(oldest_ready_s) as oldest_ready_s
  from market_queue_status group by 1, 2, 3;
