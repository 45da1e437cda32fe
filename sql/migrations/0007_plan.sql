-- The pass that spends the next interval's background calls, and what people read of it. market__plan is the table of
-- contents; what it weighs is in 0006.

-- Background calls of the next interval, in the spread that market__shares grants. Where urgent work's reserve takes
-- all, what background_min keeps is still planned for: until a job waits, market__shares does not see that share.
create function market__plan_share(p market_providers, s market_settings, p_interval_s double precision, p_now timestamptz)
returns double precision language plpgsql stable as $$
declare
  h record; kind text; used_bg bigint; remaining double precision; usable_s double precision;
  best double precision := p_interval_s / greatest(0.001, market__pace(p));
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

create type market__worth as (unit_key text, gain double precision, value double precision);

-- One unit in the plan's order, beside the figures of the whole watchlist. waiting: a background job of an app or of an
-- earlier pass waits for it; else nobody has asked, and it is one of the best.
create type market__candidate as (unit_key text, waiting boolean, gain double precision, value double precision,
  units bigint, view_rate double precision, fresh_rate double precision, priced_rate double precision, aged_rate double precision);

-- All that waits, and the p_limit best of what nobody asked for. p_edge: a guess at the value of the last of these, which
-- changes nothing but the cost: where it was right, one scan without sorting or storing 100,000 rows finds them all.
create function market__candidates(p_provider text, p_account text, p_limit int, p_edge double precision, p_now timestamptz)
returns setof market__candidate language sql stable as $$
  with open as materialized (
    select j.unit_key, bool_or(j.status = 'pending' and j.priority < s.wake_priority) as waiting
      from market_jobs j cross join market_settings s
     where j.provider = p_provider and j.account = p_account and j.status in ('pending', 'running', 'deferred')
     group by j.unit_key
  ), scan as materialized (
    select count(*) filter (where x.sizes > 0) as units,
           sum(x.views_per_h) filter (where x.sizes > 0) as view_rate,
           sum(x.views_per_h * x.still) filter (where x.sizes > 0) as fresh_rate,
           sum(x.views_per_h) filter (where x.sizes > 0 and x.priced) as priced_rate,
           sum(x.views_per_h * x.age_h) filter (where x.sizes > 0 and x.priced) as aged_rate,
           array_agg((x.unit_key, x.gain, x.value)::market__worth)
             filter (where x.sizes > 0 and x.due and x.value >= p_edge) as best,
           array_agg((x.unit_key, x.gain, x.value)::market__worth)
             filter (where x.unit_key in (select o.unit_key from open o where o.waiting)) as waiting
      from market__values(p_provider, p_account, p_now) x
  ), best as materialized (
    select b.* from scan, unnest(scan.best) b where b.unit_key not in (select o.unit_key from open o)
  ), found as (
    (select b.*, false as waiting from best b order by b.value desc, b.unit_key limit p_limit)
    union all
    -- The guess was too high, or there was none.
    (select x.unit_key, x.gain, x.value, false from market__values(p_provider, p_account, p_now) x
      where (select count(*) from best) < p_limit and (p_edge is null or p_edge > 0) and x.sizes > 0 and x.due and (p_edge is null or x.value < p_edge)
        and x.unit_key not in (select o.unit_key from open o)
      order by x.value desc, x.unit_key limit p_limit)
    union all
    select w.*, true from scan, unnest(scan.waiting) w
  )
  select f.unit_key, f.waiting, f.gain, f.value, s.units, s.view_rate, s.fresh_rate, s.priced_rate, s.aged_rate
    from scan s left join found f on true order by f.value desc, f.unit_key
$$;

-- The watched units that were not looked at for longest. One whose job waits as background is among them: what it is worth may
-- never bring it to the head. Not if it is there already, by this way or as urgent work.
create function market__oldest(p_provider text, p_account text, p_limit int, p_now timestamptz)
returns setof text language sql stable as $$
  select u.unit_key from market_units u cross join market_settings s
   where u.provider = p_provider and u.account = p_account and u.sizes > 0 and u.not_before <= p_now
     and (u.last_fetch_at is null or u.last_fetch_at <= p_now - s.fresh_for)
     and not exists (select from market_jobs j where j.unit_key = u.unit_key
                        and (j.status in ('running', 'deferred')
                             or j.status = 'pending' and (j.rank >= 1e9 or j.priority >= s.wake_priority)))
   order by u.last_fetch_at nulls first, u.unit_key limit p_limit
$$;

-- Gives waiting background jobs their place in the order, by what they are worth and with a fair share by user: the best
-- job of each user stands with the best of all, so whoever wants one thing is not kept waiting by who wants 500; of the
-- others of a user those beyond one interval's share count half, beyond two a third.
create function market__rank_waiting(p_provider text, p_account text, p_found market__candidate[],
  p_share double precision, p_now timestamptz)
returns int language sql as $$
  with placed as materialized (
    select j.id, j.rank, f.value, row_number() over (
             partition by coalesce(j.user_id, '') order by f.value desc, j.turn, j.id) as place
      from unnest(p_found) f join market_jobs j on j.unit_key = f.unit_key
     where f.waiting and j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.rank < 1e9
       and j.priority < (select wake_priority from market_settings)
  ), worth as materialized (
    select p.id, p.rank, case when p.place = 1 then max(p.value) over ()
                              else p.value / (1 + floor((p.place - 1) / greatest(1, p_share))) end as value
      from placed p
  ), moved as (
    select w.id, greatest(w.value, 1e-9) as rank from worth w where abs(w.rank - w.value) > 0.05 * abs(w.rank)
     order by 2 desc limit 1000
  ), free as (
    select j.id from market_jobs j where j.id in (select m.id from moved m) and j.status = 'pending' for update skip locked
  ), done as (
    update market_jobs j set rank = m.rank, updated_at = p_now
      from moved m where j.id = m.id and j.id in (select f.id from free f)
    returning 1
  )
  select count(*)::int from done
$$;

-- The watched size by way of which the plan refreshes a unit, as its target's key. null: nothing may be asked now.
create function market__plan_target(p_unit_key text, p_now timestamptz) returns text
language plpgsql as $$
declare key text;
begin
  select x.dedupe_key into key from market_watches w join market_targets x using (dedupe_key)
   where w.unit_key = p_unit_key and (x.retry_at is null or x.retry_at <= p_now)
   order by x.last_attempt_at nulls first, x.dedupe_key limit 1;
  if not found then
    -- All its sizes cool down; look again when the first is over. Units come in no order here, so none is waited for.
    update market_units u set not_before = coalesce(
        (select min(x.retry_at) from market_watches w join market_targets x using (dedupe_key) where w.unit_key = p_unit_key),
        p_now + interval '1 hour')
     where u.unit_key = (select n.unit_key from market_units n where n.unit_key = p_unit_key for update skip locked);
  end if;
  return key;
end $$;

-- Opens the plan's job for a target, or (the oldest's) puts the unit's job that waits already at the head. false: one is open,
-- or an app is just opening it (its lock is not waited for).
create function market__plan_open(p_dedupe_key text, p_rank double precision, p_now timestamptz) returns boolean
language plpgsql as $$
declare t record; n int;
begin
  select x.* into t from market_targets x where x.dedupe_key = p_dedupe_key;
  if p_rank >= 1e9 then
    update market_jobs j set rank = p_rank, updated_at = p_now
     where j.id = (select o.id from market_jobs o where o.unit_key = t.unit_key and o.status = 'pending'
                    order by o.priority desc, o.rank desc, o.id limit 1 for update skip locked);
    if found then
      return true;
    end if;
  end if;
  insert into market_jobs (provider, account, sku, size, currency, priority, status, run_at, max_attempts, rank, turn,
                           dedupe_key, unit_key)
  values (t.provider, t.account, t.sku, t.size, t.currency, least(100, (select wake_priority - 1 from market_settings)),
          'pending', p_now, (select max_attempts from market_settings), p_rank,
          market__turn(t.provider, t.account, 100, null), t.dedupe_key, t.unit_key)
  on conflict do nothing;
  get diagnostics n = row_count;
  return n > 0;
exception when lock_not_available then
  perform set_config('lock_timeout', '1ms', true);   -- who holds one may hold hundreds, and a pass waits once
  return false;
end $$;

-- One pass for one account: background jobs for the next interval's calls, no more. Returns how many it opened.
-- p_dice: uniform in [0, 1), rounds the share and draws the lane of the oldest.
create function market__plan(p_provider text, p_account text, p_interval_s double precision,
  p_now timestamptz default clock_timestamp(), p_dice double precision default random())
-- Compiling would take longer than the scan, and its rows belong into memory.
returns int language plpgsql set jit = off set work_mem = '64MB' as $$
declare
  p market_providers; s market_settings; d market_planner; v record; c market__candidate; found market__candidate[]; began timestamptz := clock_timestamp();
  share double precision; calls int; quota int; waiting int; lane int; opened int := 0; wanted int;
  edge market__candidate; typical double precision; key text; ranks double precision[]; target text; rank double precision;
  chosen text[] := '{}'; worth double precision[] := '{}';
begin
  if not pg_try_advisory_xact_lock(hashtext('marketd.plan ' || p_provider || '/' || p_account)) then
    return 0;
  end if;
  select * into s from market_settings;
  select * into d from market_planner;
  select * into p from market_providers m where m.provider = p_provider and m.account = p_account;
  select * into v from market__verdict(p, s, false, p_now);
  if not d.enabled or v.reason = 'off' then
    return 0;
  elsif v.reason in ('paused', 'circuit', 'cooldown') then
    -- Nothing is opened, but prices age, and who looks at them shall see it.
    update market_plans x set planned_at = p_now, share = 0, inserted = 0, units = coalesce(f.units, 0), view_rate = coalesce(f.view_rate, 0),
        fresh_rate = coalesce(f.fresh_rate, 0), priced_rate = coalesce(f.priced_rate, 0), aged_rate = coalesce(f.aged_rate, 0)
      from (select x.* from market__candidates(p_provider, p_account, 1, null, p_now) x limit 1) f
     where x.provider = p_provider and x.account = p_account;
    return 0;
  end if;
  perform set_config('lock_timeout', '200ms', true);
  share := market__plan_share(p, s, p_interval_s, p_now);
  -- A guess within a factor of five is good enough, so it is made once an hour.
  if not exists (select from market_plans x where x.provider = p_provider and x.account = p_account
                  and x.planned_at > p_now - interval '1 hour' and date_part('hour', x.planned_at) = date_part('hour', p_now)) then
    typical := market__typical_view_rate(p_provider, p_account, p_now);
  end if;
  calls := floor(share + p_dice);
  wanted := calls * 2 + 20;  -- as many as could be opened, and some that will turn out to be cooling down
  found := array(select x from market__candidates(p_provider, p_account, wanted,
    (select y.search_from from market_plans y where y.provider = p_provider and y.account = p_account), p_now) x);
  perform market__rank_waiting(p_provider, p_account, found, share, p_now);
  -- What the plan opened before and nobody has fetched yet counts against this interval.
  select count(distinct j.unit_key) into waiting from market_jobs j
   where j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.priority < s.wake_priority
     and j.user_id is null and not exists (select from market_job_requests r where r.job_id = j.id);
  ranks := array(select max(j.rank) from market_jobs j
    where j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.priority < s.wake_priority
    group by j.unit_key order by 1 desc limit calls);
  quota := greatest(0, calls - waiting);
  -- The same dice, spread anew: each call of the quota is the oldest unit's with probability d.lane.
  lane := least(quota, floor(quota * d.lane + (p_dice * 7919 - floor(p_dice * 7919)))::int);
  for key in select * from market__oldest(p_provider, p_account, lane * 4, p_now) loop
    exit when cardinality(chosen) >= lane;
    target := market__plan_target(key, p_now);
    continue when target is null;
    chosen := chosen || target;
    worth := worth || (1e9 + lane - cardinality(chosen))::double precision;   -- the oldest first
  end loop;
  foreach c in array found loop
    continue when c.waiting;
    exit when c.unit_key is null;
    -- What apps wait for and what is worth more goes first, and takes its part of the share.
    if cardinality(chosen) >= quota or cardinality(chosen) + (select count(*) from unnest(ranks) r where r > c.value) >= calls then
      edge := c;   -- the best call that is not made; none where the calls outlast the list
      exit;
    end if;
    target := market__plan_target(c.unit_key, p_now);
    continue when target is null or target = any (chosen);
    chosen := chosen || target;
    worth := worth || c.value;
  end loop;
  -- At the end and in the order of their keys, as apps open theirs: each waits for the other for a moment at most.
  for target, rank in select x.key, x.worth from unnest(chosen, worth) x(key, worth) order by x.key loop
    opened := opened + market__plan_open(target, rank, p_now)::int;
  end loop;
  perform market__note_plan(p_provider, p_account, share, waiting, opened, edge, found, wanted, typical,
    date_part('epoch', clock_timestamp() - began) * 1000, p_now);
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
  p_edge market__candidate, p_found market__candidate[], p_wanted int, p_typical double precision,
  p_took_ms double precision, p_now timestamptz)
returns void language sql as $$
  insert into market_plans as x (provider, account, planned_at, share, waiting, inserted, units, view_rate, fresh_rate,
                                 priced_rate, aged_rate, typical_view_rate, marginal_gain, marginal_value, search_from, took_ms)
  select p_provider, p_account, p_now, p_share, p_waiting, p_inserted, coalesce(p_found[1].units, 0),
         coalesce(p_found[1].view_rate, 0), coalesce(p_found[1].fresh_rate, 0), coalesce(p_found[1].priced_rate, 0),
         coalesce(p_found[1].aged_rate, 0), coalesce(p_typical, 1.0 / 24), coalesce(p_edge.gain, 0), coalesce(p_edge.value, 0),
         -- A little lower than this time's last, for what is taken now is gone the next time.
         (select case when count(*) < p_wanted then 0 else 0.8 * min(f.value) end from unnest(p_found) f where not f.waiting),
         p_took_ms
  on conflict (provider, account) do update set planned_at = excluded.planned_at, share = excluded.share,
    waiting = excluded.waiting, inserted = excluded.inserted, units = excluded.units, view_rate = excluded.view_rate,
    fresh_rate = excluded.fresh_rate, priced_rate = excluded.priced_rate, aged_rate = excluded.aged_rate,
    typical_view_rate = coalesce(p_typical, x.typical_view_rate),
    -- What only fades ends as 0, not as a number too small to compute with.
    marginal_gain = greatest(0, 0.9 * x.marginal_gain + 0.1 * excluded.marginal_gain - 1e-12),
    marginal_value = greatest(0, 0.9 * x.marginal_value + 0.1 * excluded.marginal_value - 1e-12),
    search_from = excluded.search_from, took_ms = excluded.took_ms
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
  elsif coalesce(n, 0) < 0 then
    raise exception 'market_plan: n % is negative', n using errcode = '22023';
  end if;
  return query
    select row_number() over (order by q.place_value desc, q.unit_key), q.p_provider, q.p_account, q.sku, q.size, q.currency, q.value,
           q.why, case when q.priced then q.age_h * 3600 end, case when q.priced then q.still end, q.views_per_h * 24, q.a / q.b * 24, q.job
      from (
        select p.provider as p_provider, p.account as p_account, u.sku, u.size, u.currency, v.*, j.id as job,
               coalesce(j.rank, v.value) as place_value,
               case when j.rank >= 1e9 then 'oldest: the share that is kept for what was not looked at for longest'
                    when j.id is not null and j.asked then 'asked for, and waiting'
                    when j.id is not null then 'planned for this interval'
                    when not v.priced then 'never fetched'
                    else format('%s of 100 views would see a wrong price now', round((100 * (1 - v.still))::numeric)) end as why
          from market_providers p
          cross join lateral market__values(p.provider, p.account, now_at) v
          join market_units u using (unit_key)
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
    age := least(8761, age * sqrt(p_edge / greatest(v, p_edge * 1e-12)));
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
       x.aged_rate / nullif(x.priced_rate, 0) * 3600 as view_age_s,
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
  cross join lateral (select market__shown_quota(p, 'hour') as quota, greatest(1, round(market__shown_quota(p, 'hour') / 10.0))::int as calls) c;

do $$
declare f regprocedure;
begin
  for f in select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = current_schema() and p.proname like 'market\_%' loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
