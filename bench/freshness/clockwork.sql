-- What stands in for lanes and apps while the clock is virtual. Everything that decides is the product's own:
-- market__fold, market__plan, market__shares, market__verdict, market__window, market__learn.

create schema bench;

-- One pass of the scheduler, and what the lane would claim of it: unit keys, the first first. All of them, whatever the
-- windows still hold: the pass itself must not plan more.
create function bench.tick(p_provider text, p_now timestamptz, p_interval_s double precision, p_quota int,
  p_on_demand double precision, p_dice double precision)
returns text[] language plpgsql as $$
declare keys text[];
begin
  update market_providers p set quota_hour = p_quota, on_demand_per_h = p_on_demand where p.provider = p_provider;
  while market__fold(p_now, 20000) >= 20000 loop
  end loop;
  perform market__plan(p_provider, 'default', p_interval_s, p_now, p_dice);
  keys := array(select j.unit_key from market_jobs j where j.provider = p_provider and j.status = 'pending'
                 order by j.priority desc, j.rank desc, j.turn, j.run_at, j.id);
  delete from market_jobs j where j.unit_key = any (keys);
  return keys;
end $$;

-- Calls that were made: charged to the windows that they fall in, and their lessons. The jobs of their units are answered.
-- p_lessons: how many gaps and bits belong to each unit, which stand one after the other.
create function bench.fetched(p_provider text, p_urgent boolean, p_units text[], p_skus text[], p_at timestamptz[],
  p_lessons int[], p_gaps_h double precision[], p_changed boolean[])
returns void language plpgsql as $$
declare p market_providers; s market_settings; done int := 0;
begin
  select * into p from market_providers where provider = p_provider;
  select * into s from market_settings;
  insert into market_budgets as b (provider, window_kind, window_start, window_end, used, used_background)
  -- No window begins within a quarter of an hour, so one look serves all calls of a quarter.
  select p_provider, k.kind, w.starts, w.ends, sum(c.n), case when p_urgent then 0 else sum(c.n) end
    from (select date_bin('15 minutes', x.at, 'epoch') as quarter, count(*) as n from unnest(p_at) x(at) group by 1) c
    cross join unnest(array['hour', 'day']) k(kind) cross join market__window(p, s, k.kind, c.quarter) w
   group by k.kind, w.starts, w.ends
  on conflict (provider, account, window_kind, window_start) do update
    set used = b.used + excluded.used, used_background = b.used_background + excluded.used_background;
  for i in 1 .. cardinality(p_units) loop
    perform market__learn(p_units[i], p_provider, 'default', p_skus[i], p_at[i],
      p_gaps_h[done + 1 : done + p_lessons[i]], p_changed[done + 1 : done + p_lessons[i]], false, p_at[i]);
    done := done + p_lessons[i];
  end loop;
  update market_targets t set observed_at = x.at
    from unnest(p_units, p_at) x(unit_key, at) where t.unit_key = x.unit_key;
  delete from market_jobs j where j.unit_key = any (p_units);
end $$;

-- May an urgent request leave now?
create function bench.may_go(p_provider text, p_now timestamptz) returns boolean language sql stable as $$
  select v.reason is null from market_providers p, market_settings s, market__verdict(p, s, true, p_now) v
   where p.provider = p_provider
$$;

-- Items that a user adds, without the first job that market_watch opens: here each has its own urgent request.
create function bench.watch(p_provider text, p_now timestamptz, p_records text[], p_skus text[], p_units text[])
returns void language sql as $$
  insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
  select p_provider, 'default', s, r, 'USD', r, u from unnest(p_records, p_skus, p_units) x(r, s, u);
  insert into market_watches (dedupe_key, provider, account, sku, size, currency, unit_key)
  select r, p_provider, 'default', s, r, 'USD', u from unnest(p_records, p_skus, p_units) x(r, s, u);
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, at)
  select 'watch', p_provider, 'default', s, r, 'USD', r, u, p_now from unnest(p_records, p_skus, p_units) x(r, s, u);
$$;

-- Views of a tick. Each is another user's: who looks twice in ten minutes is not what is measured here.
create function bench.view(p_provider text, p_at timestamptz[], p_records text[], p_skus text[], p_units text[])
returns void language sql as $$
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id, at)
  select 'view', p_provider, 'default', s, r, 'USD', r, u, t::text || n, t
    from unnest(p_at, p_records, p_skus, p_units) with ordinality x(t, r, s, u, n);
$$;
