-- Background refreshing: who watches and views what, how often its price changes, and which calls are worth most.
-- Times in hours and rates per hour inside the formulas; daemon/marketd/planner.py has the same ones with their sources.
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
comment on table market_watches is 'Items whose prices are kept fresh without being asked for. Written by apps.';

create table market_signals (
  signal_id bigint generated always as identity primary key,
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
  aged_rate double precision not null default 0,       -- the same views, each times the price's age in hours
  typical_view_rate double precision not null default 1.0 / 24,  -- of one size: the prior of new ones
  marginal_gain double precision not null default 0,   -- views put right by the best call not made; smoothed
  marginal_value double precision not null default 0,  -- its value in the order
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
-- The OFFSET 0 keep each step's results from being computed once for each of their uses.
create function market__values(p_provider text, p_account text, p_now timestamptz)
returns table (unit_key text, sku text, size text, currency text, sizes int, last_fetch_at timestamptz, due boolean,
  views_per_h double precision, a double precision, b double precision, age_h double precision,
  still double precision, gain double precision, value double precision)
language sql stable as $$
  select y.unit_key, y.sku, y.size, y.currency, y.sizes, y.last_fetch_at, y.due, y.w, y.a, y.b, y.tau, y.p,
         y.w * greatest(0, y.i - y.tau * y.p), y.w * (greatest(0, y.i - y.tau * y.p) + y.kappa * greatest(0, y.tau - y.i))
    from (
      select v.*, exp(greatest(-600, v.a * v.l)) as p,
             case when abs((v.a - 1) * v.l) < 1e-4
                  then -v.b * v.l * (1 + (v.a - 1) * v.l / 2 + (v.a - 1) * v.l * (v.a - 1) * v.l / 6)
                  else v.b / (v.a - 1) * (1 - exp(greatest(-600, (v.a - 1) * v.l))) end as i
        from (
          select u.*, ln(u.b / (u.b + u.tau)) as l
            from (
              select m.unit_key, m.sku, m.size, m.currency, m.sizes, m.last_fetch_at, d.kappa,
                     coalesce(m.a, d.prior_a) as a, coalesce(m.b, d.prior_b_h) as b,
                     m.not_before <= p_now and (m.last_fetch_at is null or m.last_fetch_at <= d.stale_at) as due,
                     greatest(0, coalesce(date_part('epoch', p_now - m.last_fetch_at) / 3600, 8760)) as tau,
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

-- A view counts once per user, target and ten minutes; a polling page must not buy the whole budget.
create function market__count_view(w market__wish, p_now timestamptz default clock_timestamp()) returns boolean
language plpgsql as $$
begin
  if exists (select from market_signals g where g.kind = 'view' and g.dedupe_key = w.dedupe_key
              and g.user_id = coalesce(w.user_id, '') and g.at > p_now - interval '10 minutes') then
    return false;
  end if;
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id, at)
  values ('view', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, ''), p_now);
  return true;
end $$;

-- Asking in the background is what old apps do when they show a price.
create function market__view_by_asking(w market__wish) returns void
language plpgsql as $$
begin
  if w.priority < (select wake_priority from market_settings) then
    perform market__count_view(w);
  end if;
end $$;

-- Signals into units. Two views that raced past the check above count as one here.
create function market__fold(p_now timestamptz default clock_timestamp(), p_limit int default 20000) returns int
language plpgsql as $$
declare n int;
begin
  if not pg_try_advisory_xact_lock(hashtext('marketd.fold')) then
    return 0;
  end if;
  with taken as (
    update market_signals g set folded_at = p_now
     where g.signal_id in (select signal_id from market_signals where folded_at is null order by signal_id limit p_limit)
    returning g.*
  ), per_unit as (
    select t.unit_key, min(t.provider) as provider, min(t.account) as account, min(t.sku) as sku, min(t.currency) as currency,
           min(t.size) as size,
           coalesce(sum(exp(greatest(-600, -greatest(0, date_part('epoch', p_now - t.at)) / 3600 / d.memory_h)))
             filter (where t.kind = 'view' and not exists (
               select from market_signals e where e.kind = 'view' and e.dedupe_key = t.dedupe_key and e.user_id = t.user_id
                  and case when e.folded_at is null then e.signal_id < t.signal_id and e.at > t.at - interval '10 minutes'
                           -- folded before, and maybe committed before what now comes late
                           else abs(date_part('epoch', e.at - t.at)) < 600 end)), 0) as views
      from taken t cross join market_planner d group by t.unit_key
  ), known as (
    select x.*, p.all_sizes,
           (select count(distinct w.dedupe_key) from market_watches w where w.unit_key = x.unit_key) as sizes,
           (select max(t.observed_at) from market_targets t where t.unit_key = x.unit_key) as seen_at
      from per_unit x join market_providers p on p.provider = x.provider and p.account = x.account
  ), put as (
    insert into market_units as m (unit_key, provider, account, sku, size, currency, sizes, views, views_at, tracked_since,
                                   last_fetch_at, a, b)
    select k.unit_key, k.provider, k.account, k.sku, case when not k.all_sizes then k.size end, k.currency, k.sizes, k.views,
           p_now, p_now, k.seen_at, r.a, r.b
      from known k left join market_rates r using (provider, account, sku) order by k.unit_key
    on conflict (unit_key) do update set
      sizes = excluded.sizes, views_at = p_now,
      views = m.views * exp(greatest(-600, -greatest(0, date_part('epoch', p_now - m.views_at)) / 3600
                / (select memory_h from market_planner))) + excluded.views
  )
  select count(*) into n from taken;
  delete from market_signals where folded_at < p_now - interval '30 minutes';
  -- Neither watched nor viewed for long: forgotten.
  delete from market_units u using market_planner d
   where u.sizes = 0 and u.views_at < p_now - make_interval(hours => (4 * d.memory_h)::int);
  return n;
end $$;

-- ------------------------------------------------------------------------------------------------------- planning

-- Background calls of the next interval, in the spread that market__shares grants. Where urgent work's reserve takes
-- all, what background_min keeps is still planned for: until a job waits, market__shares does not see that share.
create function market__plan_share(p market_providers, s market_settings, p_interval_s double precision, p_now timestamptz)
returns double precision language plpgsql stable as $$
declare
  h record; kind text; used_bg bigint; remaining double precision; usable_s double precision;
  best double precision := p_interval_s / greatest(0.001, p.pace_s * 1.05);
begin
  foreach kind in array array['hour', 'day'] loop
    select * into h from market__shares(p, s, kind, p_now);
    continue when h.quota is null;
    select coalesce(sum(b.used_background), 0) into used_bg from market_budgets b
     where b.provider = p.provider and b.account = p.account and b.window_kind = kind and b.window_start = h.starts;
    remaining := greatest(h.background_left, least(ceil(p.background_min * h.quota) - used_bg, h.quota - h.used), 0);
    usable_s := h.spacing_s * greatest(1, h.background_left);   -- the seconds over which market__shares spreads
    best := least(best, remaining * case when usable_s > p_interval_s then p_interval_s / usable_s else 1 end);
  end loop;
  return best;
end $$;

-- The best units to fetch now that nobody has asked for, with the figures of the whole watchlist in every row.
-- One scan for all: so a pass costs the same whatever it is asked.
create function market__candidates(p_provider text, p_account text, p_limit int, p_now timestamptz)
returns table (place bigint, unit_key text, gain double precision, value double precision, units bigint,
  view_rate double precision, fresh_rate double precision, aged_rate double precision)
language sql stable as $$
  with v as materialized (
    select x.unit_key, x.due, x.views_per_h, x.age_h, x.still, x.gain, x.value
      from market__values(p_provider, p_account, p_now) x where x.sizes > 0
  ), whole as (
    select count(*) as units, sum(v.views_per_h) as view_rate, sum(v.views_per_h * v.still) as fresh_rate,
           sum(v.views_per_h * v.age_h) as aged_rate from v
  ), open as materialized (
    select distinct j.unit_key from market_jobs j where j.provider = p_provider and j.account = p_account
       and j.status in ('pending', 'running', 'deferred')
  ), best as (
    select v.unit_key, v.gain, v.value from v where v.due and v.unit_key not in (select o.unit_key from open o)
     order by v.value desc, v.unit_key limit p_limit
  )
  select row_number() over (order by b.value desc, b.unit_key), b.unit_key, b.gain, b.value,
         w.units, w.view_rate, w.fresh_rate, w.aged_rate
    from whole w left join best b on true order by 1
$$;

-- The units that were not looked at for longest, in the same form.
create function market__oldest(p_provider text, p_account text, p_limit int, p_now timestamptz)
returns setof text language sql stable as $$
  select u.unit_key from market_units u cross join market_settings s
   where u.provider = p_provider and u.account = p_account and u.sizes > 0 and u.not_before <= p_now
     and (u.last_fetch_at is null or u.last_fetch_at <= p_now - s.fresh_for)
     and not exists (select from market_jobs j where j.unit_key = u.unit_key and j.status in ('pending', 'running', 'deferred'))
   order by u.last_fetch_at nulls first, u.unit_key limit p_limit
$$;

-- Gives waiting background jobs their place in the order. A user's jobs count less the more of them wait: those beyond
-- one interval's share half, beyond two a third, so that an import does not shut out everybody else.
create function market__rank_waiting(p_provider text, p_account text, p_share double precision, p_now timestamptz)
returns int language sql as $$
  with worth as materialized (
    select j.id, v.value, (row_number() over (partition by coalesce(j.user_id, '') order by v.value desc, j.turn, j.id) - 1)
             / greatest(1, p_share) as place, j.rank
      from market_jobs j join market__values(p_provider, p_account, p_now) v using (unit_key)
     where j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.rank < 1e9
       and j.priority < (select wake_priority from market_settings)
  ), moved as (
    select w.id, w.value / (1 + floor(w.place)) as rank from worth w
     where abs(w.rank - w.value / (1 + floor(w.place))) > 0.05 * abs(w.rank)
     order by 2 desc limit 1000
  ), free as (
    select j.id from market_jobs j where j.id in (select m.id from moved m) and j.status = 'pending' for update skip locked
  ), done as (
    update market_jobs j set rank = greatest(m.rank, 1e-9), updated_at = p_now
      from moved m where j.id = m.id and j.id in (select f.id from free f)
    returning 1
  )
  select count(*)::int from done
$$;

-- Opens the plan's job for one unit, by way of one of its watched sizes. false: nothing may be asked now, or an app is
-- just asking for it (its lock is not waited for).
create function market__plan_unit(p_unit_key text, p_rank double precision, p_now timestamptz) returns boolean
language plpgsql as $$
declare t record; n int;
begin
  select x.* into t from market_watches w join market_targets x using (dedupe_key)
   where w.unit_key = p_unit_key and (x.retry_at is null or x.retry_at <= p_now)
   order by x.last_attempt_at nulls first, x.dedupe_key limit 1;
  if not found then
    -- All its sizes cool down; look again when the first is over.
    update market_units u set not_before = coalesce(
        (select min(x.retry_at) from market_watches w join market_targets x using (dedupe_key) where w.unit_key = p_unit_key),
        p_now + interval '1 hour')
     where u.unit_key = p_unit_key;
    return false;
  end if;
  insert into market_target_locks as l (dedupe_key) values (t.dedupe_key)
  on conflict (dedupe_key) do update set taken = l.taken + 1;
  insert into market_jobs (provider, account, sku, size, currency, priority, status, run_at, max_attempts, rank, turn,
                           dedupe_key, unit_key)
  values (t.provider, t.account, t.sku, t.size, t.currency, least(100, (select wake_priority - 1 from market_settings)),
          'pending', p_now, (select max_attempts from market_settings), p_rank,
          market__turn(t.provider, t.account, 100, null), t.dedupe_key, t.unit_key)
  on conflict do nothing;
  get diagnostics n = row_count;
  return n > 0;
exception when lock_not_available then
  return false;
end $$;

-- One pass for one account: background jobs for the next interval's calls, no more. Returns how many it opened.
-- p_dice: uniform in [0, 1), rounds the share and draws the lane of the oldest.
create function market__plan(p_provider text, p_account text, p_interval_s double precision,
  p_now timestamptz default clock_timestamp(), p_dice double precision default random())
-- Compiling would take longer than the scan, and its rows belong into memory.
returns int language plpgsql set jit = off set work_mem = '64MB' as $$
declare
  p market_providers; s market_settings; d market_planner; v record; c record; began timestamptz := clock_timestamp();
  share double precision; quota int; waiting int; lane int; opened int := 0; edge record; typical double precision; key text; ahead int;
begin
  if not pg_try_advisory_xact_lock(hashtext('marketd.plan ' || p_provider || '/' || p_account)) then
    return 0;
  end if;
  select * into s from market_settings;
  select * into d from market_planner;
  select * into p from market_providers m where m.provider = p_provider and m.account = p_account;
  select * into v from market__verdict(p, s, false, p_now);
  if not d.enabled or v.reason in ('off', 'paused', 'circuit', 'cooldown') then
    return 0;
  end if;
  perform set_config('lock_timeout', '200ms', true);
  share := market__plan_share(p, s, p_interval_s, p_now);
  -- A guess within a factor of five is good enough, so it is made once an hour.
  if not exists (select from market_plans x where x.provider = p_provider and x.account = p_account
                  and x.planned_at > p_now - interval '1 hour' and date_part('hour', x.planned_at) = date_part('hour', p_now)) then
    typical := market__typical_view_rate(p_provider, p_account, p_now);
  end if;
  perform market__rank_waiting(p_provider, p_account, share, p_now);
  -- What the plan opened before and nobody has fetched yet counts against this interval.
  select count(distinct j.unit_key) into waiting from market_jobs j
   where j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.priority < s.wake_priority
     and j.user_id is null and not exists (select from market_job_requests r where r.job_id = j.id);
  quota := greatest(0, floor(share + p_dice)::int - waiting);
  -- The same dice, spread anew: each call of the quota is the oldest unit's with probability d.lane.
  lane := least(quota, floor(quota * d.lane + (p_dice * 7919 - floor(p_dice * 7919)))::int);
  for key in select * from market__oldest(p_provider, p_account, lane * 4, p_now) loop
    exit when opened >= lane;
    opened := opened + market__plan_unit(key, 1e9, p_now)::int;
  end loop;
  for c in select * from market__candidates(p_provider, p_account, quota * 2 + 20, p_now) loop
    edge := c;
    exit when c.unit_key is null or opened >= quota;
    -- What apps wait for and what is worth more goes first, and takes its part of the share.
    select count(distinct j.unit_key) into ahead from market_jobs j
     where j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.priority < s.wake_priority
       and j.rank > c.value;
    exit when ahead >= floor(share + p_dice);
    opened := opened + market__plan_unit(c.unit_key, c.value, p_now)::int;
  end loop;
  perform market__note_plan(p_provider, p_account, share, waiting, opened, edge.gain, edge.value, edge.units,
    edge.view_rate, edge.fresh_rate, edge.aged_rate, typical, date_part('epoch', clock_timestamp() - began) * 1000, p_now);
  return opened;
end $$;

-- Views an hour of one size, over all that is watched; worth one day of one view a day where nothing is known.
create function market__typical_view_rate(p_provider text, p_account text, p_now timestamptz) returns double precision
language sql stable as $$
  select greatest(1e-4, (1 + coalesce(sum(u.views), 0))
    / (24 + coalesce(sum(u.sizes * d.memory_h
         * (1 - exp(greatest(-600, -greatest(0, date_part('epoch', p_now - u.tracked_since)) / 3600 / d.memory_h)))), 0)))
    from market_units u cross join market_planner d
   where u.provider = p_provider and u.account = p_account and u.sizes > 0
$$;

-- The pass's own row: what status, metrics and the next pass's prior are made of.
create function market__note_plan(p_provider text, p_account text, p_share double precision, p_waiting int, p_inserted int,
  p_gain double precision, p_value double precision, p_units bigint, p_view_rate double precision,
  p_fresh_rate double precision, p_aged_rate double precision, p_typical double precision, p_took_ms double precision, p_now timestamptz)
returns void language sql as $$
  insert into market_plans as x (provider, account, planned_at, share, waiting, inserted, view_rate, fresh_rate, aged_rate,
                                 typical_view_rate, marginal_gain, marginal_value, units, took_ms)
  select p_provider, p_account, p_now, p_share, p_waiting, p_inserted, coalesce(p_view_rate, 0), coalesce(p_fresh_rate, 0),
         coalesce(p_aged_rate, 0), coalesce(p_typical, 1.0 / 24),
         coalesce(p_gain, 0), coalesce(p_value, 0), coalesce(p_units, 0), p_took_ms
  on conflict (provider, account) do update set planned_at = excluded.planned_at, share = excluded.share,
    waiting = excluded.waiting, inserted = excluded.inserted, view_rate = excluded.view_rate, fresh_rate = excluded.fresh_rate,
    aged_rate = excluded.aged_rate, units = excluded.units, took_ms = excluded.took_ms,
    typical_view_rate = coalesce(p_typical, x.typical_view_rate),
    marginal_gain = 0.9 * x.marginal_gain + 0.1 * excluded.marginal_gain,
    marginal_value = 0.9 * x.marginal_value + 0.1 * excluded.marginal_value
$$;

-- ---------------------------------------------------------------------------------------------- what apps may call

create function market_watch(items jsonb, user_id text default null)
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare i record; w market__wish; who text := market__identity(market_watch.user_id); answers jsonb[] := '{}'; id bigint; fresh boolean;
begin
  perform market__check_items(items, 'market_watch');
  for i in select x.ord, x.wish from market__wishes(items, 100, who) x order by (x.wish).dedupe_key, x.ord loop
    w := i.wish;
    if w.problem is not null then
      answers := answers || jsonb_build_object('ord', i.ord, 'result', 'refused', 'code', '22023', 'message', w.problem);
      continue;
    end if;
    insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
    values (w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key) on conflict (dedupe_key) do nothing;
    insert into market_watches (dedupe_key, user_id, provider, account, sku, size, currency, unit_key)
    values (w.dedupe_key, coalesce(w.user_id, ''), w.provider, w.account, w.sku, w.size, w.currency, w.unit_key)
    on conflict do nothing;
    fresh := found;
    if fresh then
      insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
      values ('watch', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, ''));
    end if;
    select j.id into id from market_jobs j where j.dedupe_key = w.dedupe_key and j.status in ('pending', 'running', 'deferred');
    if id is null and market__observed_at(w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key) is null then
      -- A first price is owed now, not when the plan comes round to it.
      w.priority := least(100, (select wake_priority - 1 from market_settings));
      w.not_before := null;
      select o.job_id into id from market__open(w, false) o;
    end if;
    answers := answers || jsonb_build_object('ord', i.ord, 'id', id, 'result', case when fresh then 'watched' else 'kept' end);
  end loop;
  return query select * from market__answers(answers);
end $$;

create function market_unwatch(items jsonb, user_id text default null)
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare i record; w market__wish; who text := market__identity(market_unwatch.user_id); answers jsonb[] := '{}';
begin
  perform market__check_items(items, 'market_unwatch');
  for i in select x.ord, x.wish from market__wishes(items, 100, who) x order by (x.wish).dedupe_key, x.ord loop
    w := i.wish;
    if w.problem is not null then
      answers := answers || jsonb_build_object('ord', i.ord, 'result', 'refused', 'code', '22023', 'message', w.problem);
      continue;
    end if;
    delete from market_watches m where m.dedupe_key = w.dedupe_key and m.user_id = coalesce(w.user_id, '');
    if found then
      insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
      values ('watch', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, ''));
      answers := answers || jsonb_build_object('ord', i.ord, 'result', 'unwatched');
    else
      answers := answers || jsonb_build_object('ord', i.ord, 'result', 'not_watched');
    end if;
  end loop;
  return query select * from market__answers(answers);
end $$;

-- A page showed these prices. Call it where people look, not where programs poll.
create function market_viewed(items jsonb, user_id text default null)
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare i record; who text := market__identity(market_viewed.user_id); answers jsonb[] := '{}';
begin
  perform market__check_items(items, 'market_viewed');
  for i in select x.ord, x.wish from market__wishes(items, 100, who) x order by (x.wish).dedupe_key, x.ord loop
    if (i.wish).problem is not null then
      answers := answers || jsonb_build_object('ord', i.ord, 'result', 'refused', 'code', '22023', 'message', (i.wish).problem);
    else
      answers := answers || jsonb_build_object('ord', i.ord,
        'result', case when market__count_view(i.wish) then 'counted' else 'repeated' end);
    end if;
  end loop;
  return query select * from market__answers(answers);
end $$;

create function market__answers(p_answers jsonb[])
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language sql stable as $$
  select a.ord, a.id, a.result, x.waiting_for, x.eta, a.code, a.message
    from unnest(p_answers) u,
         jsonb_to_record(u) as a(ord int, id bigint, result text, code text, message text),
         market__wait(a.id, null) x
   order by a.ord
$$;

-- The next n units in the plan's order, and why. value: views put right by the call, in the order's own measure.
create function market_plan(provider text default null, n int default 20)
returns table (place bigint, provider_name text, account text, sku text, size text, currency text, value double precision,
  why text, age_s double precision, still_right double precision, views_per_day double precision,
  changes_per_day double precision, job_id bigint)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare now_at timestamptz := clock_timestamp();
begin
  if market_plan.provider is not null
     and not exists (select from market_providers p where p.provider = market_plan.provider) then
    raise exception 'market_plan: provider % is unknown', quote_literal(left(market_plan.provider, 40)) using errcode = '22023';
  end if;
  return query
    select row_number() over (order by q.place_value desc, q.unit_key), q.p_provider, q.p_account, q.sku, q.size, q.currency, q.value,
           q.why, q.age_h * 3600, q.still, q.views_per_h * 24, q.a / q.b * 24, q.job
      from (
        select p.provider as p_provider, p.account as p_account, v.*, j.id as job,
               coalesce(j.rank, v.value) as place_value,
               case when j.rank >= 1e9 then 'oldest: the share that is kept for what was not looked at for longest'
                    when j.id is not null and j.asked then 'asked for, and waiting'
                    when j.id is not null then 'planned for this interval'
                    when v.last_fetch_at is null then 'never fetched'
                    else format('%s of 100 views would see a wrong price now', round((100 * (1 - v.still))::numeric)) end as why
          from market_providers p
          cross join lateral market__values(p.provider, p.account, now_at) v
          left join lateral (
            select o.id, o.rank, exists (select from market_job_requests r where r.job_id = o.id) as asked
              from market_jobs o where o.unit_key = v.unit_key and o.status = 'pending' and o.rank > 0
             order by o.rank desc limit 1) j on true
         where (market_plan.provider is null or p.provider = market_plan.provider) and p.enabled
           and (j.id is not null or v.sizes > 0 and v.due and not exists (
                  select from market_jobs o where o.unit_key = v.unit_key and o.status in ('pending', 'running', 'deferred')))
      ) q
     order by 1 limit n;
end $$;

-- When a unit's value will have grown to what is refreshed at present; null where no plan has run.
-- V grows at most as the square of the age, so the first step never overshoots; a few more come close.
create function market__due_at(p_views_per_h double precision, p_a double precision, p_b double precision,
  p_kappa double precision, p_fetched_at timestamptz, p_edge double precision, p_now timestamptz)
returns timestamptz language plpgsql immutable as $$
declare age double precision; l double precision; x double precision; i double precision; v double precision; n int := 0;
begin
  if p_fetched_at is null then
    return p_now;
  elsif p_edge is null or p_edge <= 0 or p_views_per_h <= 0 then
    return null;
  end if;
  age := greatest(1.0 / 60, date_part('epoch', p_now - p_fetched_at) / 3600);
  loop
    l := ln(p_b / (p_b + age));
    x := (p_a - 1) * l;
    i := case when abs(x) < 1e-4 then -p_b * l * (1 + x / 2 + x * x / 6) else p_b / (p_a - 1) * (1 - exp(greatest(-600, x))) end;
    v := p_views_per_h * (greatest(0, i - age * exp(greatest(-600, p_a * l))) + p_kappa * greatest(0, age - i));
    n := n + 1;
    exit when v >= p_edge * 0.98 or n > 40 or age > 8760;
    age := least(8761, age * sqrt(p_edge / greatest(v, 1e-300)));
  end loop;
  return greatest(p_now, p_fetched_at + make_interval(secs => age * 3600));
end $$;

alter view market_price_status rename to market__price_status;
-- What 0005 tells, and: freshness, the chance that the price still holds; when the plan will likely refresh it.
create view market_price_status as
select s.*,
       case when s.observed_at is not null
            then market__still(coalesce(r.a, d.prior_a), coalesce(r.b, d.prior_b_h), s.age_s / 3600) end as freshness,
       w.dedupe_key is not null as watched,
       case when w.dedupe_key is not null and d.enabled
            then greatest(u.not_before, s.observed_at + g.fresh_for, market__due_at(
              (u.views + d.size_weight * greatest(1, u.sizes)) / (d.size_weight / coalesce(x.typical_view_rate, 1.0 / 24) + d.memory_h
                * (1 - exp(greatest(-600, -date_part('epoch', clock_timestamp() - u.tracked_since) / 3600 / d.memory_h)))),
              coalesce(r.a, d.prior_a), coalesce(r.b, d.prior_b_h), d.kappa, u.last_fetch_at, x.marginal_value, clock_timestamp()))
       end as next_refresh_at
  from market__price_status s
  cross join market_planner d
  cross join market_settings g
  join market_targets t on t.dedupe_key = concat_ws('|', s.provider, s.account, s.sku, s.currency, coalesce(s.size, ''))
  left join lateral (select m.dedupe_key from market_watches m where m.dedupe_key = t.dedupe_key limit 1) w on true
  left join market_units u on u.unit_key = t.unit_key
  left join market_rates r on r.provider = s.provider and r.account = s.account and r.sku = s.sku
  left join market_plans x on x.provider = s.provider and x.account = s.account;

-- How good the prices are that people see, per account, and what another budget would do to that.
create view market_freshness as
select x.provider, x.account, x.planned_at, x.units, x.view_rate,
       x.fresh_rate / nullif(x.view_rate, 0) as freshness,
       x.aged_rate / nullif(x.view_rate, 0) * 3600 as view_age_s,
       x.marginal_gain as views_per_call, x.share, x.waiting, x.inserted, x.took_ms,
       100 * x.marginal_gain * c.calls / nullif(x.view_rate, 0) as points_for_ten_percent,
       case
         when x.units = 0 then 'nothing is watched'
         when coalesce(x.view_rate, 0) = 0 then 'nothing is viewed'
         when c.quota is null then 'no hourly budget limits it'
         when 100 * x.marginal_gain * c.calls / x.view_rate < 0.1
           then format('%s of 100 views see a right price; the budget is ample: a tenth less would hardly be noticed',
                       round((100 * x.fresh_rate / x.view_rate)::numeric))
         else format('%s of 100 views see a right price; %s calls an hour more would make it about %s more, as many fewer about %s fewer',
                     round((100 * x.fresh_rate / x.view_rate)::numeric), c.calls,
                     round((100 * x.marginal_gain * c.calls / x.view_rate)::numeric, 1),
                     round((100 * x.marginal_gain * c.calls / x.view_rate)::numeric, 1))
       end as advice
  from market_plans x
  join market_providers p on p.provider = x.provider and p.account = x.account
  cross join lateral (select market__quota(p, 'hour') as quota, greatest(1, round(market__quota(p, 'hour') / 10.0))::int as calls) c;

do $$
declare f regprocedure;
begin
  for f in select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = current_schema() and p.proname like 'market\_%' loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
