-- Background refreshing: who watches and views what, how often its price changes, and which calls are worth most.
-- Times in hours and rates per hour inside the formulas; tests/planner_model.py has the same ones with their sources.
--   apps append to market_watches and market_signals; the daemon's pass folds signals into market_units, which only
--   it and settle write. `p_now` is a parameter throughout, so that a simulated clock can drive the same statements.

create table market_planner (
  only_row boolean primary key default true check (only_row),
  enabled boolean not null default true,
  kappa double precision not null default 0.05,
  lane double precision not null default 0.02,
  memory_h double precision not null default 168,
  size_weight double precision not null default 0.2,
  prior_a double precision not null default 0.5,
  prior_b_h double precision not null default 12,
  evidence_cap double precision not null default 10,
  slowest_h double precision not null default 4320
);
comment on table market_planner is 'The dials of config.yaml''s planner section; written by the daemon at start and SIGHUP.';
insert into market_planner default values;
analyze market_planner, market_settings;   -- one row each, which else nobody tells the query planner

create table market_watches (
  dedupe_key text not null,
  user_id text not null default '',
  provider text not null,
  account text not null,
  sku text not null,
  size text,
  currency text not null,
  unit_key text not null,
  since timestamptz not null default clock_timestamp(),
  primary key (dedupe_key, user_id)
);
create index market_watches_unit on market_watches (unit_key);
comment on table market_watches is 'Items whose prices are kept fresh without being asked for. Written by apps; the daemon moves them to their users'' accounts.';

create table market_signals (
  signal_id bigint generated always as identity,
  kind text not null check (kind in ('watch', 'view')),
  provider text not null,
  account text not null,
  sku text not null,
  size text,
  currency text not null,
  dedupe_key text not null,
  unit_key text not null,
  user_id text not null default '',
  at timestamptz not null default clock_timestamp(),
  folded_at timestamptz
);
-- Serves market__fold.
create index market_signals_open on market_signals (signal_id) where folded_at is null;
create index market_signals_folded on market_signals (folded_at) where folded_at is not null;
-- Serves the rule of one view per user, target and ten minutes.
create index market_signals_views on market_signals (dedupe_key, user_id, at) where kind = 'view';
alter table market_signals replica identity full;   -- as market_price_history has it
comment on table market_signals is
  'Views, and word of changed watches, until the planner''s pass has folded them into market_units. Apps only append.';

create table market_units (
  unit_key text primary key,
  provider text not null,
  account text not null,
  sku text not null,
  size text,                              -- null: one call returns every size of the product
  currency text not null,
  sizes int not null default 0,           -- watched sizes that one call refreshes; 0: not planned, only weighed
  views double precision not null default 0,  -- faded number of views, as of views_at
  views_at timestamptz not null,
  tracked_since timestamptz not null,
  last_fetch_at timestamptz,              -- last successful fetch
  not_before timestamptz not null default '-infinity',  -- back-off after failures, end of a cool-down
  fails int not null default 0,
  a double precision,                     -- its product's row of market_rates, copied: the scan over all units joins nothing
  b double precision
) with (fillfactor = 70);
-- Serves market__learn.
create index market_units_product on market_units (provider, account, sku);
-- Serves market__fold.
create index market_units_left on market_units (views_at) where sizes = 0;
create index market_units_oldest on market_units (provider, account, last_fetch_at nulls first) where sizes > 0;
comment on table market_units is 'What one call refreshes, with what the planner needs to know of it.';

create table market_rates (
  provider text not null,
  account text not null,
  sku text not null,
  a double precision not null,            -- changes seen ...
  b double precision not null,            -- ... in so many hours
  primary key (provider, account, sku)
) with (fillfactor = 70);
comment on table market_rates is 'How often a size of a product changes its price: Gamma(a, b) belief, learned from fetches.';

create table market_plans (
  provider text not null,
  account text not null,
  planned_at timestamptz not null,
  share double precision not null,        -- calls that the next interval may spend on background work
  waiting int not null default 0,         -- background units that waited already
  inserted int not null default 0,
  view_rate double precision not null default 0,       -- expected views an hour of all watched units
  fresh_rate double precision not null default 0,      -- those of them that would see the present price
  priced_rate double precision not null default 0,     -- those that see any price
  aged_rate double precision not null default 0,       -- these, each times the price's age in hours
  typical_view_rate double precision not null default 1.0 / 24,  -- of one size: the prior of new ones
  marginal_gain double precision not null default 0,   -- views put right by the best call not made; smoothed
  marginal_value double precision not null default 0,  -- its value in the order
  search_from double precision,           -- the least value that the next pass looks for at first; null: none is known
  units int not null default 0,
  took_ms double precision not null default 0,
  primary key (provider, account)
);
comment on table market_plans is 'The planner''s last pass per provider account.';

alter table market_prices add column parser int not null default 1;
comment on column market_prices.parser is 'Which reading of the provider''s answers this price is of; a new reading is no price change.';

-- ---------------------------------------------------------------------------------------------------- the formulas

-- Probability that a price of this age is still right. date_part, not extract, which is numeric and ten times slower;
-- exp(greatest(-600, ...)) because Postgres raises on underflow.
create function market__still(p_a double precision, p_b double precision, p_age_h double precision)
returns double precision language sql immutable parallel safe as
$$ select exp(greatest(-600, p_a * ln(p_b / (p_b + greatest(0, p_age_h))))) $$;

-- The belief after one fetch: exact for "not changed", the first two moments of the true posterior for "changed".
create function market__learn_bit(p_a double precision, p_b double precision, p_gap_h double precision, p_changed boolean,
  d market_planner, out a double precision, out b double precision)
language plpgsql immutable parallel safe as $$
declare r double precision; p double precision; q double precision; m double precision; v double precision;
begin
  a := p_a;
  b := p_b;
  if p_gap_h <= 0 then
    return;
  end if;
  if not p_changed then
    b := least(p_b + p_gap_h, greatest(d.slowest_h, p_b));
    return;
  end if;
  r := p_b / (p_b + p_gap_h);
  p := exp(greatest(-600, p_a * ln(r)));
  if 1 - p < 1e-6 then
    a := p_a + 1;
  else
    q := 1 / (1 - p);
    m := p_a / p_b * (1 - p * r) * q;
    v := p_a * (p_a + 1) / (p_b * p_b) * (1 - p * r * r) * q - m * m;
    a := m * m / v;
    b := m / v;
  end if;
  -- Old evidence fades: a market that changed its ways is believed after so many changes.
  if a > d.evidence_cap then
    b := b * d.evidence_cap / a;
    a := d.evidence_cap;
  end if;
  b := greatest(b, 1e-6);
end $$;

-- Every unit of an account: expected views an hour, age, chance that its prices are right, gain and value of a call.
-- Without any price no view is right, and a call is worth what a first price brings: the time for which it will stay
-- right, out of the memory's hours (for longer the rate of views is not believed).
-- It runs over all units every pass, so it has few columns and few steps. OFFSET 0 keeps the result of a step from being
-- computed once for each of its uses.
create function market__values(p_provider text, p_account text, p_now timestamptz)
returns table (unit_key text, sizes int, due boolean, priced boolean, views_per_h double precision, a double precision,
  b double precision, age_h double precision, still double precision, gain double precision, value double precision)
language sql stable as $$
  select y.unit_key, y.sizes, y.due, y.priced, y.w, y.a, y.b, y.tau, y.p, y.w * greatest(0, y.i - y.tau * y.p),
         y.w * (greatest(0, y.i - y.tau * y.p) + (select kappa from market_planner) * greatest(0, y.tau - y.i))
    from (
      -- (b/(b+tau))^(a-1) = still * (b+tau)/b; near a = 1 only the closed form fails, and the series stands in.
      select v.unit_key, v.sizes, v.due, v.priced, v.w, v.a, v.b, v.tau, case when v.priced then v.p else 0 end as p,
             case when abs(1 - v.p * (v.b + v.tau) / v.b) < 1e-4
                  then v.b * ln((v.b + v.tau) / v.b) * (1 - (1 - v.p * (v.b + v.tau) / v.b) / 2)
                  else v.b / (v.a - 1) * (1 - v.p * (v.b + v.tau) / v.b) end as i
        from (
          select u.unit_key, u.sizes, u.due, u.priced, u.w, u.a, u.b, u.tau, exp(greatest(-600, u.a * ln(u.b / (u.b + u.tau)))) as p
            from (
              select m.unit_key, m.sizes, m.last_fetch_at is not null as priced,
                     coalesce(m.a, d.prior_a) as a, coalesce(m.b, d.prior_b_h) as b,
                     m.not_before <= p_now and (m.last_fetch_at is null or m.last_fetch_at <= d.stale_at) as due,
                     case when m.last_fetch_at is null then d.memory_h
                          else greatest(0, date_part('epoch', p_now - m.last_fetch_at) / 3600) end as tau,
                     (m.views * exp(greatest(-600, least(0, date_part('epoch', m.views_at - p_now) / d.memory_s)))
                        + d.size_weight * greatest(1, m.sizes))
                       / (d.prior_h + d.memory_h
                          * (1 - exp(greatest(-600, least(0, date_part('epoch', m.tracked_since - p_now) / d.memory_s))))) as w
                from market_units m
                cross join (
                  select x.*, x.memory_h * 3600 as memory_s, p_now - s.fresh_for as stale_at,
                         x.size_weight / coalesce((select q.typical_view_rate from market_plans q
                                                    where q.provider = p_provider and q.account = p_account), 1.0 / 24) as prior_h
                    from market_planner x cross join market_settings s limit 1) d
               where m.provider = p_provider and m.account = p_account
              offset 0) u
          offset 0) v
      offset 0) y
$$;

-- ------------------------------------------------------------------------------------------------------- learning

-- What a price means apart from how much it is: the amounts of two different kinds are not compared.
create function market__basis_kind(p_basis jsonb) returns jsonb
language sql immutable parallel safe as $$ select coalesce(p_basis, '{}') - array['flex_ask', 'listings', 'sales_90d'] $$;

-- What fetches found of their products, as `settle` hands it on: only of p_held, by their place in p_providers and p_skus. Where two found the
-- same product, what the later one found. In a function, since few fetches bring a listing, and each CTE of `settle` costs all of them.
create function market__keep_listings(p_listings jsonb, p_held int[], p_providers text[], p_skus text[]) returns int
language plpgsql as $$
declare n int;
begin
  with found as materialized (
    select l.*, p_providers[l.u] as provider, p_skus[l.u] as sku
      from jsonb_to_recordset(p_listings) as l(
        u int, id text, style_code text, name text, brand text, category text, gender text, image_url text, url text,
        details jsonb, variants jsonb)
     where (l.u in (select unnest(p_held))) is true
  ), listing as materialized (
    select distinct on (l.provider, l.id) l.* from found l order by l.provider, l.id, l.u desc
  ), product as (
    insert into market_products as p (provider, product_id, style_code, name, brand, category, gender, image_url, url, details)
    select provider, id, style_code, name, brand, category, gender, image_url, url, coalesce(details, '{}') from listing
     order by provider, id
    on conflict (provider, product_id) do update set
      style_code = coalesce(excluded.style_code, p.style_code), name = coalesce(excluded.name, p.name),
      brand = coalesce(excluded.brand, p.brand), category = coalesce(excluded.category, p.category),
      gender = coalesce(excluded.gender, p.gender), image_url = coalesce(excluded.image_url, p.image_url),
      url = coalesce(excluded.url, p.url), details = p.details || excluded.details, updated_at = clock_timestamp()
  ), mapped as (
    insert into market_skus (provider, sku, product_id)
    select distinct on (l.provider, l.sku) l.provider, l.sku, l.id from found l order by l.provider, l.sku, l.u desc
    on conflict (provider, sku) do update set product_id = excluded.product_id, mapped_at = clock_timestamp()
  ), variants as (
    insert into market_variants (provider, product_id, variant_id, size, chart, gtins)
    select distinct on (l.provider, l.id, v.id) l.provider, l.id, v.id, v.size, coalesce(v.chart, '{}'), coalesce(v.gtins, '{}')
      from listing l, jsonb_to_recordset(l.variants) as v(id text, size text, chart jsonb, gtins text[])
     order by l.provider, l.id, v.id
    on conflict (provider, product_id, variant_id) do update set
      size = excluded.size, chart = excluded.chart, gtins = excluded.gtins, updated_at = clock_timestamp()
  )
  select count(*) into n from listing;
  return n;
end $$;

-- A fetch of a unit ended. p_fetched_at null: it brought no price, and nothing is learned of any rate.
-- p_gaps_h, p_changed: per size that was known before, the hours between the two looks and whether the price differs.
create function market__learn(p_unit_key text, p_provider text, p_account text, p_sku text, p_fetched_at timestamptz,
  p_gaps_h double precision[], p_changed boolean[], p_failed boolean, p_now timestamptz default clock_timestamp())
returns boolean language plpgsql as $$
declare d market_planner; belief record; x double precision; y double precision; i int;
begin
  if p_fetched_at is null then
    if p_failed then
      update market_units u set fails = u.fails + 1,
        not_before = p_now + least(interval '1 hour', interval '1 minute' * 2 ^ least(u.fails + 1, 6))
       where u.unit_key = p_unit_key;
    end if;
    return false;
  end if;
  if cardinality(p_gaps_h) > 0 then
    select * into d from market_planner;
    insert into market_rates (provider, account, sku, a, b) values (p_provider, p_account, p_sku, d.prior_a, d.prior_b_h)
    on conflict do nothing;
    select r.a, r.b into x, y from market_rates r
     where r.provider = p_provider and r.account = p_account and r.sku = p_sku for no key update;
    for i in 1 .. cardinality(p_gaps_h) loop
      belief := market__learn_bit(x, y, p_gaps_h[i], p_changed[i], d);
      x := belief.a;
      y := belief.b;
    end loop;
    update market_rates r set a = x, b = y where r.provider = p_provider and r.account = p_account and r.sku = p_sku;
    -- Where each size is a unit of its own, all of them share what one has taught.
    update market_units u set a = x, b = y
     where u.provider = p_provider and u.account = p_account and u.sku = p_sku and u.unit_key <> p_unit_key
       and u.unit_key in (select n.unit_key from market_units n
                           where n.provider = p_provider and n.account = p_account and n.sku = p_sku for update skip locked);
  end if;
  update market_units u set last_fetch_at = greatest(u.last_fetch_at, p_fetched_at), not_before = '-infinity', fails = 0,
    a = coalesce(x, u.a), b = coalesce(y, u.b)
   where u.unit_key = p_unit_key;
  return true;
end $$;

-- A view counts once per user, target and ten minutes; a polling page must not buy the whole budget. Returns what counted.
create function market__count_views(p_wishes market__wish[], p_now timestamptz default clock_timestamp()) returns setof text
language sql as $$
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id, at)
  select distinct on (w.dedupe_key, coalesce(w.user_id, ''))
         'view', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, ''), p_now
    from unnest(p_wishes) w
   where not exists (select from market_signals g where g.kind = 'view' and g.dedupe_key = w.dedupe_key
                      and g.user_id = coalesce(w.user_id, '') and g.at > p_now - interval '10 minutes')
  returning dedupe_key
$$;

-- Signals into units. Two views that raced past the check above count as one here.
create function market__fold(p_now timestamptz default clock_timestamp(), p_limit int default 20000) returns int
language plpgsql as $$
declare n int;
begin
  if not pg_try_advisory_xact_lock(hashtext('marketd.fold')) then
    return 0;
  end if;
  with open as materialized (
    select s.signal_id, s.unit_key from market_signals s where s.folded_at is null order by s.signal_id limit p_limit
  ), free as materialized (
    -- What a settle learns about at this moment is folded the next time: both lock many units, and neither may wait with some in hand.
    select m.unit_key from market_units m where m.unit_key in (select o.unit_key from open o) for update skip locked
  ), taken as (
    update market_signals g set folded_at = p_now
     where g.signal_id in (
       select o.signal_id from open o
        where o.unit_key in (select f.unit_key from free f)
           or not exists (select from market_units m where m.unit_key = o.unit_key))
    returning g.*
  ), per_unit as (
    select t.unit_key, min(t.provider) as provider, min(t.account) as account, min(t.sku) as sku, min(t.currency) as currency,
           min(t.size) as size,
           coalesce(sum(exp(greatest(-60, -greatest(0, date_part('epoch', p_now - t.at)) / 3600 / d.memory_h)))
             filter (where t.kind = 'view' and not exists (
               select from market_signals e where e.kind = 'view' and e.dedupe_key = t.dedupe_key and e.user_id = t.user_id
                  -- These bound the walk through the index: after days without a fold a key has thousands of views.
                  and e.at > t.at - interval '10 minutes' and e.at < t.at + interval '10 minutes'
                  -- One folded before may have been committed before what now comes late.
                  and (e.folded_at is not null or e.signal_id < t.signal_id))), 0) as views
      from taken t cross join market_planner d group by t.unit_key
  ), known as (
    select x.*, p.all_sizes,
           (select count(distinct w.dedupe_key) from market_watches w where w.unit_key = x.unit_key) as sizes,
           (select max(t.observed_at) from market_targets t where t.sku = x.sku and t.unit_key = x.unit_key) as seen_at
      from per_unit x join market_providers p on p.provider = x.provider and p.account = x.account
  ), put as (
    insert into market_units as m (unit_key, provider, account, sku, size, currency, sizes, views, views_at, tracked_since,
                                   last_fetch_at, a, b)
    select k.unit_key, k.provider, k.account, k.sku, case when not k.all_sizes then k.size end, k.currency, k.sizes, k.views,
           p_now, p_now, k.seen_at, r.a, r.b
      from known k left join market_rates r using (provider, account, sku) order by k.unit_key
    on conflict (unit_key) do update set
      sizes = excluded.sizes, views_at = p_now,
      -- What only fades ends as 0, or its next fading would underflow.
      views = greatest(0, m.views * exp(greatest(-60, -greatest(0, date_part('epoch', p_now - m.views_at)) / 3600
                / (select memory_h from market_planner))) + excluded.views - 1e-12)
  )
  select count(*) into n from taken;
  delete from market_signals where folded_at < p_now - interval '30 minutes';
  -- Neither watched nor viewed for long, and nothing of it waits (whose place in the order is the unit's worth): forgotten.
  delete from market_units u
   where u.unit_key in (select m.unit_key from market_units m cross join market_planner d
                         where m.sizes = 0 and m.views_at < p_now - make_interval(hours => (4 * d.memory_h)::int)
                           and not exists (select from market_jobs j where j.unit_key = m.unit_key
                                              and j.status in ('pending', 'running', 'deferred'))
                           for update of m skip locked);
  return n;
end $$;

-- Watches whose user has another account now, or whose account is taken away: each goes where its user's wishes go. In the order
-- of their new keys; what an app holds at this moment moves with the next pass. Returns how many have moved.
create function market__move_watches(p_limit int default 2000) returns int
language plpgsql set lock_timeout = '200ms' as $$
declare w record; n int := 0;
begin
  if not exists (select from market_providers p where p.account <> 'default') then
    return 0;   -- no look at all watches where there is nowhere to go
  end if;
  for w in
    select m.*, h.account as home,
           concat_ws('|', m.provider, h.account, m.sku, m.currency, coalesce(m.size, '')) as home_key,
           concat_ws('|', m.provider, h.account, m.sku, m.currency, case when not h.all_sizes then coalesce(m.size, '') end) as home_unit
      from market_watches m
      left join market_account_users a using (provider, user_id)
      join market_providers h on h.provider = m.provider and h.account = coalesce(a.account, 'default')
     where m.account <> h.account order by home_key, m.user_id limit p_limit
  loop
    begin
      delete from market_watches m where m.dedupe_key = w.dedupe_key and m.user_id = w.user_id;
      continue when not found;
      insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
      values (w.provider, w.home, w.sku, w.size, w.currency, w.home_key, w.home_unit) on conflict do nothing;
      insert into market_watches (dedupe_key, user_id, provider, account, sku, size, currency, unit_key, since)
      values (w.home_key, w.user_id, w.provider, w.home, w.sku, w.size, w.currency, w.home_unit, w.since) on conflict do nothing;
      insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
      values ('watch', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, w.user_id),
             ('watch', w.provider, w.home, w.sku, w.size, w.currency, w.home_key, w.home_unit, w.user_id);
      n := n + 1;
    exception when lock_not_available then
      perform set_config('lock_timeout', '1ms', true);   -- who holds one may hold hundreds, and a pass waits once
    end;
  end loop;
  return n;
end $$;

-- ---------------------------------------------------------------------------------------------- what apps may call

-- What was asked, item by item. place: 1 for the first item of its target, which is the one that has an effect.
create type market__answer as (ord int, place int, wish market__wish);

create function market__asked(items jsonb, p_who text) returns market__answer[]
language sql stable as $$
  select coalesce(array_agg((x.ord, x.place, x.wish)::market__answer order by (x.wish).dedupe_key, x.ord), '{}')
    from (select w.ord, w.wish, row_number() over (partition by (w.wish).dedupe_key order by w.ord)::int as place
            from market__wishes(items, 100, p_who) w) x
$$;

-- The readable ones, each target once, in the order of their keys.
create function market__good(p_asked market__answer[]) returns market__wish[]
language sql immutable as $$
  select coalesce(array_agg(a.wish order by (a.wish).dedupe_key), '{}') from unnest(p_asked) a
   where a.place = 1 and (a.wish).problem is null
$$;

-- Word for the planner's next pass, that these are watched now, or are not.
create function market__tell_watches(p_wishes market__wish[], p_keys text[]) returns void
language sql as $$
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
  select 'watch', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, '')
    from unnest(p_wishes) w where (w.dedupe_key in (select unnest(p_keys))) is true   -- a hash; as an array each would be walked
$$;

-- One row per item, in the order of asking. p_done: the keys for which it had an effect.
create function market__answers(p_asked market__answer[], p_done text[], p_yes text, p_no text, p_jobs boolean)
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language plpgsql stable as $$
declare a record; x record; lane market__lane;
begin
  for a in
    select q.ord, (q.wish).problem, d.key is not null as done, j.id
      from unnest(p_asked) q
      left join unnest(p_done) d(key) on d.key = (q.wish).dedupe_key and q.place = 1
      left join market_jobs j on p_jobs and j.dedupe_key = (q.wish).dedupe_key and j.status in ('pending', 'running', 'deferred')
     order by q.ord
  loop
    ord := a.ord;
    job_id := a.id;
    result := case when a.problem is not null then 'refused' when a.done then p_yes else p_no end;
    error_code := case when a.problem is not null then '22023' end;
    error_message := a.problem;
    wait_reason := null;
    eta := null;
    if a.id is not null then
      x := market__wait(a.id, lane);
      lane := x.lane;
      wait_reason := x.waiting_for;
      eta := x.eta;
    end if;
    return next;
  end loop;
end $$;

-- Rows are written in the order of their keys, so that two calls about the same items wait for each other at most.
create function market_watch(items jsonb, user_id text default null)
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  who text := market__identity(market_watch.user_id, current_user); asked market__answer[]; good market__wish[]; added text[]; w market__wish;
begin
  perform market__check_items(items, 'market_watch');
  asked := market__asked(items, who);
  good := market__good(asked);
  -- A first price is owed now, not when the plan comes round to it. The job before its target, as in all other ways of asking.
  foreach w in array good loop
    continue when market__observed_at(w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key) is not null
      or exists (select from market_jobs j where j.dedupe_key = w.dedupe_key and j.status in ('pending', 'running', 'deferred'));
    w.priority := least(100, (select wake_priority - 1 from market_settings));
    w.not_before := null;
    perform market__open(w, false);
  end loop;
  insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
  select g.provider, g.account, g.sku, g.size, g.currency, g.dedupe_key, g.unit_key from unnest(good) g
  on conflict (dedupe_key) do nothing;
  with put as (
    insert into market_watches as m (dedupe_key, user_id, provider, account, sku, size, currency, unit_key)
    select g.dedupe_key, coalesce(g.user_id, ''), g.provider, g.account, g.sku, g.size, g.currency, g.unit_key
      from unnest(good) g on conflict do nothing
    returning m.dedupe_key
  ) select array_agg(p.dedupe_key) into added from put p;
  perform market__tell_watches(good, added);
  return query select * from market__answers(asked, added, 'watched', 'kept', true);
end $$;

create function market_unwatch(items jsonb, user_id text default null)
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare who text := market__identity(market_unwatch.user_id, current_user); asked market__answer[]; good market__wish[]; gone text[];
begin
  perform market__check_items(items, 'market_unwatch');
  asked := market__asked(items, who);
  good := market__good(asked);
  with mine as materialized (
    select m.dedupe_key, m.user_id from market_watches m
     where (m.dedupe_key, m.user_id) in (select g.dedupe_key, coalesce(g.user_id, '') from unnest(good) g)
     order by m.dedupe_key for update
  ), taken as (
    delete from market_watches m using mine x where (m.dedupe_key, m.user_id) = (x.dedupe_key, x.user_id) returning m.dedupe_key
  ) select array_agg(t.dedupe_key) into gone from taken t;
  perform market__tell_watches(good, gone);
  return query select * from market__answers(asked, gone, 'unwatched', 'not_watched', false);
end $$;

-- A page showed these prices. Call it where people look, not where programs poll.
create function market_viewed(items jsonb, user_id text default null)
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare who text := market__identity(market_viewed.user_id, current_user); asked market__answer[];
begin
  perform market__check_items(items, 'market_viewed');
  asked := market__asked(items, who);
  return query select * from market__answers(asked,
    array(select market__count_views(market__good(asked))), 'counted', 'repeated', false);
end $$;

do $$
declare f regprocedure;
begin
  for f in select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = current_schema() and p.proname like 'market\_%' loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
