-- Truthful answers: what a job waits for and until when; the views that apps and operators read.

-- What one job waits for. waiting_for: budget pace cooldown circuit paused off rank not_before running no_daemon nothing;
-- state null: there is no such job. The lane is given back, so that the next job of many need not read it again.
-- until: when what holds it back is over. eta: when its fetch will likely begin; null: no telling.
-- Places in the queue are counted up to p_count_to; whoever stands further back is told no eta.
create function market__wait(p_job_id bigint, inout lane market__lane, p_count_to int default 200, out state text,
                             out waiting_for text, out until timestamptz, out eta timestamptz, out detail text)
language plpgsql stable as $$
declare j market_jobs; now_at timestamptz := clock_timestamp(); ahead record;
begin
  select * into j from market_jobs where id = p_job_id;
  state := j.status;
  if state is null then
    return;
  elsif state in ('done', 'failed') then
    waiting_for := 'nothing';
    detail := case state when 'done' then j.outcome else concat_ws(': ', j.error_code, j.error_message) end;
    return;
  elsif state = 'running' then
    waiting_for := 'running';
    until := j.lease_expires_at;
    eta := now_at;
    detail := format('attempt %s of %s, being fetched now', j.attempt, j.max_attempts);
    return;
  end if;
  if lane.provider is distinct from j.provider or lane.account <> j.account
     or lane.urgent <> (j.priority >= lane.wake_priority) then
    lane := market__lane(j.provider, j.account, j.priority);
  end if;
  if state = 'deferred' and j.run_at > now_at then
    waiting_for := case when j.retry_at >= j.run_at and j.attempt = 0 then 'cooldown' else 'not_before' end;
    until := j.run_at;
    eta := market__eta(lane, 0, 0, now_at);
    eta := case when lane.alive and eta is not null then greatest(j.run_at, eta) end;   -- greatest() looks past a null
    detail := case
      when waiting_for = 'cooldown' then 'the target cools down: '
        || coalesce((select nullif(concat_ws(': ', t.last_error_code, t.last_error_message), '')
                       from market_targets t where t.dedupe_key = j.dedupe_key), 'it failed before')
      when j.retry_at >= j.run_at
        then format('attempt %s of %s failed (%s); next try then', j.attempt, j.max_attempts, coalesce(j.error_code, 'unknown'))
      else 'the app asked for it not before then' end;
    if not lane.alive then
      detail := detail || '; and no daemon is running';
    elsif lane.reason in ('off', 'paused') or lane.until > j.run_at then
      detail := detail || '; and then: ' || lane.words;
    end if;
    return;
  end if;
  if not lane.alive then
    waiting_for := 'no_daemon';
    detail := concat_ws('; and then: ', 'no daemon is running: start marketd',
                        case when lane.reason in ('off', 'paused', 'cooldown', 'circuit', 'budget') then lane.words end);
    return;
  elsif lane.reason = 'off' then
    waiting_for := 'off';
    detail := lane.words;
    return;
  end if;
  select f.lease_expires_at into until from market_fetches f where f.unit_key = j.unit_key and f.lease_expires_at > now_at;
  if found then
    waiting_for := 'running';
    eta := now_at;
    detail := 'a fetch of the same product is under way; its price will serve this job if it is fresh enough';
    return;
  end if;
  ahead := market__ahead(j, lane, p_count_to);
  waiting_for := coalesce(lane.reason, 'rank');
  until := lane.until;
  eta := case when ahead.jobs <= p_count_to then market__eta(lane, ahead.urgent_calls, ahead.other_calls, now_at) end;
  detail := concat_ws('; ', lane.words, case
    when ahead.jobs = 0 then 'next in line'
    when ahead.jobs > p_count_to then format('more than %s jobs ahead', p_count_to)
    else format('%s job%s ahead (%s call%s)', ahead.jobs, case when ahead.jobs > 1 then 's' end,
                ahead.urgent_calls + ahead.other_calls, case when ahead.urgent_calls + ahead.other_calls > 1 then 's' end) end);
end $$;

-- Waiting jobs that the claim would take before this one, at most p_count_to + 1, and the calls that they cost: one for
-- each product, or as many as finding one takes. A job goes when the first of its product's goes.
create function market__ahead(j market_jobs, l market__lane, p_count_to int, out jobs int, out urgent_calls int, out other_calls int)
language plpgsql stable as $$
declare h market_jobs; units text[]; skus text[]; urgent boolean[];
begin
  -- A range of one key in its own order: no other index has that, even where the statement was planned with an empty queue.
  select * into h from (select m.* from market_jobs m where m.unit_key >= j.unit_key and m.unit_key <= j.unit_key
                           and m.status = 'pending' order by m.unit_key offset 0) m
   order by m.priority desc, m.rank desc, m.turn, m.run_at, m.id limit 1;
  if not found then
    h := j;
  end if;
  -- Three ranges of market_jobs_ready: its order has both directions, so one row comparison does not express it.
  -- The ORDER BYs are hints only: they make any other index a bad bargain.
  select count(*), array_agg(x.unit_key), array_agg(x.sku), array_agg(x.priority >= l.wake_priority)
    into jobs, units, skus, urgent from (
    (select o.unit_key, o.sku, o.priority from market_jobs o where o.provider = h.provider and o.account = h.account
        and o.status = 'pending' and o.priority > h.priority order by o.priority desc limit p_count_to + 1)
    union all
    (select o.unit_key, o.sku, o.priority from market_jobs o where o.provider = h.provider and o.account = h.account
        and o.status = 'pending' and o.priority = h.priority and o.rank > h.rank order by o.rank desc limit p_count_to + 1)
    union all
    (select o.unit_key, o.sku, o.priority from market_jobs o where o.provider = h.provider and o.account = h.account
        and o.status = 'pending' and o.priority = h.priority and o.rank = h.rank
        and (o.turn, o.run_at, o.id) < (h.turn, h.run_at, h.id) order by o.turn limit p_count_to + 1)
    limit p_count_to + 1) x;
  urgent_calls := 0;
  other_calls := 0;
  if jobs between 1 and p_count_to then
    select coalesce(sum(u.calls) filter (where u.urgent), 0), coalesce(sum(u.calls) filter (where not u.urgent), 0)
      into urgent_calls, other_calls from (
      select bool_or(x.urgent) as urgent,
             case when l.first_calls = 1 or exists (select from market_skus k where k.provider = h.provider and k.sku = min(x.sku))
                  then 1 else l.first_calls end as calls
        from unnest(units, skus, urgent) x(unit_key, sku, urgent) group by x.unit_key) u;
  end if;
end $$;

-- An honest guess: so many calls ahead at the rate that pace, spread, budget and the provider's own speed allow. Background
-- work lets urgent calls go at their pace, and its own at the spread. null: no telling.
create function market__eta(l market__lane, p_urgent_calls int, p_other_calls int, p_now timestamptz) returns timestamptz
language plpgsql immutable as $$
declare base timestamptz := greatest(p_now, l.until); n int := p_urgent_calls + p_other_calls; left_now int;
begin
  if l.reason in ('paused', 'off') or l.hour_quota = 0 or l.day_quota = 0 then
    return null;
  end if;
  if l.day_quota is not null and base < l.day_ends and n >= greatest(1, l.day_left) then
    -- Beyond this day's calls: the rest goes on in the days to come.
    n := n - greatest(1, l.day_left);
    base := l.day_ends + (n / l.day_quota) * interval '1 day';
    n := mod(n, l.day_quota);
    return base + case when l.hour_quota is null then make_interval(secs => n * l.pace_s)
                       else make_interval(secs => (n / l.hour_quota) * l.hour_s + mod(n, l.hour_quota) * l.next_step_s) end;
  end if;
  if l.hour_quota is null or base < l.hour_ends then
    left_now := greatest(1, l.calls_left);
    if l.hour_quota is null or n < left_now then
      return base + make_interval(secs => p_urgent_calls * l.pace_s + p_other_calls * l.step_s);
    end if;
    n := n - left_now;
    base := l.hour_ends;
  end if;
  return base + make_interval(secs => (n / l.hour_quota) * l.hour_s + mod(n, l.hour_quota) * l.next_step_s);
end $$;

-- Of jobs that others asked for a caller is told nothing, unless he is trusted with them, or may read all of them anyway.
create function market__may_see(p_job_id bigint) returns boolean
language plpgsql stable as $$
declare caller name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  return market__trusted() or coalesce(pg_has_role(caller, to_regrole('market_daemon')::oid, 'member'), false)   -- it reads the table
    or exists (select from market_job_requests r where r.job_id = p_job_id and r.user_id = market__identity())
    or exists (select from market_jobs j where j.id = p_job_id and j.user_id = market__identity());
end $$;

create function market_why(job_id bigint)
returns table (state text, waiting_for text, until timestamptz, eta timestamptz, detail text)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_generic_plan as $$
begin
  return query select x.state, x.waiting_for, x.until, x.eta, x.detail
    from market__wait(market_why.job_id, null, 1000) x where x.state is not null and market__may_see(market_why.job_id);
  if not found then
    return query select 'unknown'::text, 'nothing'::text, null::timestamptz, null::timestamptz,
      case when market_why.job_id is null then 'no job id was given (an answer of fresh has none): ask by provider, sku and size'
           else format('no job %s that you may see: finished jobs are pruned after some days, others'' jobs are not shown', market_why.job_id) end;
  end if;
end $$;

create function market_why(provider text, sku text, size text default null, currency text default null)
returns table (state text, waiting_for text, until timestamptz, eta timestamptz, detail text)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare w market__wish; id bigint; seen timestamptz;
begin
  w := market__wish(market_why.provider, market_why.sku, market_why.size, market_why.currency, 100, null, market__identity(null, current_user));
  if w.problem is not null then
    raise exception 'market_why: %', w.problem using errcode = '22023';
  end if;
  select j.id into id from market_jobs j where j.dedupe_key = w.dedupe_key and j.status in ('pending', 'running', 'deferred');
  if not found then
    select j.id into id from market_jobs j where j.dedupe_key = w.dedupe_key and j.status in ('done', 'failed')
     order by j.id desc limit 1;
  end if;
  if id is not null then
    -- Of an item everybody may know what it waits for, whoever asked.
    return query select x.state, x.waiting_for, x.until, x.eta, x.detail from market__wait(id, null, 1000) x;
    return;
  end if;
  seen := market__observed_at(w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key);
  return query select case when seen is null then 'never_asked' else 'priced' end, 'nothing'::text, null::timestamptz,
    null::timestamptz, case when seen is null then 'no job was ever asked for this item'
                            else format('priced at %s; no job is open', seen) end;
end $$;

-- One row per target: its price, how old, what went wrong last, and what it waits for.
create function market__image_key(p_category text) returns text language sql immutable as $$
  select case when p_category in ('sneakers', 'shoes') then 'sneakers' when p_category like '%card%' then 'trading_cards'
              when p_category like 'collectible%' then 'collectibles' else 'default' end
$$;

create view market_price_status as
select t.provider, t.account, t.sku, t.size, coalesce(t.price_size, p.size) as price_size, t.currency,
       p.lowest_ask, p.highest_bid, p.last_sale, p.last_sale_at, p.basis, p.observed_at,
       date_part('epoch', clock_timestamp() - p.observed_at) as age_s,
       t.last_success_at, date_part('epoch', clock_timestamp() - t.last_success_at) as last_success_age_s,
       t.last_attempt_at, t.last_error_at, t.last_error_code, t.last_error_message,
       j.id as job_id, j.status as job_status, j.priority as job_priority,
       j.status in ('pending', 'deferred') as queued, j.status = 'running' as running,
       case when m.circuit <> 'closed' and m.circuit_reason = 'throttled' then m.circuit_until end as rate_limited_until,
       case
         when j.status = 'running' then 'running'
         when m.enabled is not true and (p.observed_at is null or j.id is not null) then 'account_not_connected'
         when m.circuit <> 'closed' and m.circuit_reason = 'unauthorized' then 'account_not_connected'
         when m.circuit <> 'closed' and m.circuit_reason = 'throttled' and j.id is not null then 'rate_limited'
         when m.circuit <> 'closed' and m.circuit_reason = 'errors' and j.id is not null then 'provider_down'
         when j.status in ('pending', 'deferred') and (j.retry_at is null or j.attempt > 0) then 'queued'
         when t.last_error_at > coalesce(t.last_success_at, '-infinity')
           then case when t.last_error_code in ('server_error', 'timeout', 'connection') then 'provider_down' else t.last_error_code end
         when t.last_outcome = 'no_asks' or p.observed_at is not null and p.lowest_ask is null then 'no_asks'
         when t.last_outcome is not null or p.observed_at is not null then 'priced'
         else 'unknown'
       end as state,
       t.retry_at as cooldown_until
  from market_targets t
  left join market_providers m on m.provider = t.provider and m.account = t.account
  left join market_prices p on p.provider = t.provider and p.account = t.account and p.sku = t.sku
       and coalesce(p.size, '') = coalesce(t.price_size, t.size, '') and p.currency = t.currency
  left join market_jobs j on j.dedupe_key = t.dedupe_key and j.status in ('pending', 'running', 'deferred');

create view market_queue_status as
select j.provider, j.account, j.status,
       case when j.priority >= 200 then 'manual' when j.priority >= s.wake_priority then 'hot' else 'background' end as band,
       count(*) as jobs, min(j.run_at) as oldest_due_at,
       greatest(0, date_part('epoch', clock_timestamp() - min(j.run_at) filter (where j.status = 'pending'))) as oldest_ready_s
  from market_jobs j, market_settings s
 where j.status in ('pending', 'running', 'deferred')
 group by 1, 2, 3, 4;

create view market_budget_status as
select p.provider, p.account, k.kind as window_kind, h.starts as window_start, h.ends as window_end,
       h.quota, h.used, h.quota - h.used as remaining, h.urgent_left, h.background_left,
       coalesce(b.used_background, 0) as used_background, coalesce(b.given_back, 0) as given_back,
       coalesce(b.refused, 0) as refused,
       -- What a moved window brought along is nobody's fault.
       greatest(0, least(h.used - coalesce(b.quota, h.quota), h.used - coalesce(b.carried, 0))) as over,
       date_part('epoch', h.ends - clock_timestamp()) as resets_in_s,
       market__lane_state(p) as lane_state,
       p.circuit_until as until, coalesce(p.paused_reason, p.circuit_detail, p.off_reason) as reason,
       v.reason as background_waits_for, v.until as background_until
  from market_providers p
  cross join market_settings s
  cross join (values ('hour'), ('day')) k(kind)
  cross join lateral market__shown_shares(p, s, k.kind) h
  cross join lateral market__shown_verdict(p, s, false) v
  left join market_budgets b on b.provider = p.provider and b.account = p.account
       and b.window_kind = k.kind and b.window_start = h.starts
 where h.quota is not null;

create view market_dead_letters as
select id, provider, account, sku, size, currency, priority, user_id, attempt, rescues, error_code, error_message,
       created_at, completed_at
  from market_jobs where status = 'failed';

-- The best name and image that any provider gave, else the category's own fallback image.
create view market_catalog as
select k.sku, n.name, n.brand, n.category, n.gender, i.image_url,
       coalesce(i.image_url, s.fallback_images ->> coalesce(market__image_key(n.category), 'default'), 'default.svg') as image,
       i.image_url is null as image_is_fallback
  from (select distinct sku from market_skus) k
  cross join market_settings s
  left join lateral (
    select p.name, p.brand, p.category, p.gender from market_skus x join market_products p using (provider, product_id)
     where x.sku = k.sku and p.name is not null
     order by array_position(array['stockx', 'alias', 'ebay'], x.provider) nulls last, x.provider limit 1) n on true
  left join lateral (
    select p.image_url from market_skus x join market_products p using (provider, product_id)
     where x.sku = k.sku and p.image_url is not null
     order by array_position(array['alias', 'stockx', 'ebay'], x.provider) nulls last, x.provider limit 1) i on true;

create view stockx_market_prices as
select sku, size, currency, product_id, lowest_ask, highest_bid, last_sale, observed_at, observed_at as updated_at
  from market_prices where provider = 'stockx';

create view market_request_audit as
select provider, account, date_trunc('hour', granted_at, 'UTC') as hour, meter, cost_window, endpoint,
       case when priority >= 200 then 'manual' when priority >= s.wake_priority then 'hot' else 'background' end as band,
       status_class, count(*) as requests, count(*) filter (where given_back) as given_back,
       count(*) filter (where useful) as useful, count(*) filter (where useful is false) as wasted, wasted_reason,
       avg(took_s) as mean_s
  from market_requests, market_settings s
 group by 1, 2, 3, 4, 5, 6, 7, 8, wasted_reason;

-- Nobody but owner and granted roles (sql/roles.sql) calls these.
do $$
declare f regprocedure;
begin
  for f in select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = current_schema() and p.proname like 'market\_%' loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
