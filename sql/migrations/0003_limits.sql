-- Who may send a request now: windows, shares, pace, circuit. All with the database's clock.

-- The window of one kind that holds p_at. Hours are keyed by the epoch, never by the session's time zone; the day is
-- the provider's calendar day, so it has 23 or 25 hours when its zone's clocks change.
create function market__window(p market_providers, s market_settings, p_kind text, p_at timestamptz,
                               out starts timestamptz, out ends timestamptz)
language plpgsql stable as $$
declare len double precision := case when p_kind = 'hour' then s.hour_s else s.day_s end; local_day timestamp;
begin
  if p_kind = 'hour' or s.day_s is not null then
    starts := to_timestamp(floor(date_part('epoch', p_at) / len) * len);
    ends := starts + make_interval(secs => len);
    return;
  end if;
  local_day := date_trunc('day', (p_at at time zone p.day_zone) - p.day_start::interval) + p.day_start::interval;
  starts := local_day at time zone p.day_zone;
  if starts > p_at then      -- the day begins within an hour that the clocks repeat: it begins once
    local_day := local_day - interval '1 day';
    starts := local_day at time zone p.day_zone;
  end if;
  ends := (local_day + interval '1 day') at time zone p.day_zone;
  if ends <= p_at then       -- or within one that they leave out
    starts := ends;
    ends := (local_day + interval '2 days') at time zone p.day_zone;
  end if;
end $$;

-- A window's last second and the first half second of the next (less where windows are shortened) belong to nobody: the
-- provider's clock may be a little ahead of ours, or behind. A grant is valid for five such seconds.
create function market__guard(s market_settings) returns double precision
language sql immutable as $$ select least(1, s.hour_s / 20) $$;

-- A request may be charged so many seconds before it leaves: who dies in between has spent a call for nothing.
create function market__early(s market_settings) returns double precision
language sql immutable as $$ select least(0.02, market__guard(s) / 4) $$;

-- What holds for a lane: the lowest quotas that any live daemon was configured with, and the stored ones (null: none); the
-- widest spacing, in seconds. Two configurations may differ for the time of a rolling restart, and then the lower limit
-- holds. Spaced 10 % wider than asked, for jitter must not make requests look closer than they left: with 5 %, three daemons
-- on a busy machine showed 6 in 0.992 s at 5 a second.
create type market__limits as (hour int, day int, pace_s double precision);
create function market__limits(p market_providers) returns market__limits
language plpgsql stable as $$   -- plpgsql keeps its plans; SQL functions are planned at every call
declare l market__limits;
begin
  select least(p.quota_hour, min((d.told ->> 'hour')::int)), least(p.quota_day, min((d.told ->> 'day')::int)),
         1.1 * greatest(p.pace_s, max((d.told ->> 'pace_s')::double precision)) into l
    from (select m.quotas -> (p.provider || '/' || p.account) as told from market_daemons m
           where m.alive_until > clock_timestamp() offset 0) d;   -- offset: looked up once, not for each of the three
  return l;
end $$;

-- Of mints and usage reports a thousand a day each, as eBay has it and more than anybody needs.
create function market__limit(l market__limits, p_kind text) returns int
language sql immutable as $$
  select case p_kind when 'hour' then l.hour when 'day' then l.day else 1000 end
$$;

create function market__pace(p market_providers) returns double precision
language plpgsql stable as $$
begin
  return (market__limits(p)).pace_s;
end $$;

-- Seconds until the pace lets the next request go. No request is ever placed further ahead than one interval, so a
-- time beyond that is left over from before the clock was set back, or the pace made quicker.
create function market__ahead_s(p market_providers, p_interval_s double precision, p_now timestamptz) returns double precision
language sql immutable as $$
  select case when p.next_request_at > p_now and p.next_request_at <= p_now + make_interval(secs => p_interval_s + 1)
              then date_part('epoch', p.next_request_at - p_now) else 0 end
$$;

-- Calls of the present window: what is used, what is kept for whom, and when background may go.
--   reserve: kept for urgent work; shrinks with the time that is left, is gone in the window's last 5 %.
--   background_min: kept for background while some waits; open to all in the window's last 5 %.
--   spacing: seconds for each background call when they are spread evenly over what is left of the window's first 95 %.
--   tokens: background calls that may go at once: one more each spacing, never more than a tenth of background's share,
--   so that a handful of items is not made to wait. Counted in calls, for the spacing changes all the time.
--   urgent_from, background_from: when there are calls again for such work; null (or past): there are. token_from: when
--   the spread lets the next background call go.
-- p_quota: the window's quota, if the caller has it; without one there is nothing to share.
create function market__shares(p market_providers, s market_settings, p_kind text, p_at timestamptz, p_quota int default null,
  out starts timestamptz, out ends timestamptz, out quota int, out used int, out urgent_left int,
  out background_left int, out spacing_s double precision, out tokens double precision,
  out urgent_from timestamptz, out background_from timestamptz, out token_from timestamptz)
language plpgsql stable as $$
declare w record; b record; used_bg int; rem double precision; len double precision; keep double precision; late boolean;
  expected double precision; burst int;
begin
  quota := coalesce(p_quota, market__limit(market__limits(p), p_kind));
  if quota is null then
    return;
  end if;
  w := market__window(p, s, p_kind, p_at);
  starts := w.starts;
  ends := w.ends;
  select m.used, m.used_background, m.background_tokens, m.background_at into b from market_budgets m
   where m.provider = p.provider and m.account = p.account and m.window_kind = p_kind and m.window_start = w.starts;
  used := coalesce(b.used, 0);
  used_bg := coalesce(b.used_background, 0);
  if p.rolling and p_kind = 'hour' then
    -- The provider counts the last hour, whenever it asks; our clock-hour row is then bookkeeping only. A request may
    -- leave as late as its grant is valid, so a call is counted for so much longer.
    select count(*), min(g.send_at) + make_interval(secs => s.hour_s + 6 * market__guard(s)) into used, ends
      from market_grants g where g.provider = p.provider and g.account = p.account
       and g.send_at > p_at - make_interval(secs => s.hour_s + 6 * market__guard(s));
    ends := coalesce(ends, w.ends);
  end if;
  len := date_part('epoch', w.ends - w.starts);
  rem := greatest(0, date_part('epoch', w.ends - p_at));
  late := rem <= 0.05 * len;
  expected := p.on_demand_per_h * rem / 3600;
  keep := case when late then 0
               when p.reserve is null then ceil(expected + sqrt(expected))
               else ceil(p.reserve * quota * rem / len) end;
  background_left := greatest(0, quota - used - least(keep, quota)::int);
  urgent_left := greatest(0, quota - used);   -- a quota may be lowered below what was used
  if urgent_left > 0 and p.background_min > 0 and not late then
    keep := greatest(0, ceil(p.background_min * quota) - used_bg);
    -- Neither EXISTS nor min(), which may both be planned as a walk through all that waits: this is one step down an index.
    if keep > 0 and (select j.priority from market_jobs j where j.provider = p.provider and j.account = p.account
                        and j.status = 'pending' order by j.priority limit 1) < s.wake_priority then
      urgent_left := greatest(0, urgent_left - keep::int);
      -- What is kept for background is not the reserve's to refuse.
      background_left := greatest(background_left, least(keep::int, quota - used));
    end if;
  end if;
  spacing_s := greatest(0, rem - 0.05 * len) / greatest(1, background_left);
  if p.rolling and p_kind = 'hour' then   -- calls come back one by one, at the rate at which they went
    spacing_s := least(spacing_s, 0.95 * len / greatest(1, quota - least(keep, quota)));
  end if;
  burst := greatest(1, least(quota, used_bg + background_left) / 10);
  tokens := case when spacing_s = 0 then burst
    else least(burst, coalesce(b.background_tokens, burst)
                      + greatest(0, coalesce(date_part('epoch', p_at - b.background_at), 0)) / spacing_s) end;
  if used >= quota then
    urgent_from := ends;
    background_from := ends;
  else
    urgent_from := case when urgent_left <= 0 then ends - 0.05 * (ends - starts) end;
    background_from := case when background_left <= 0 then ends - 0.05 * (ends - starts) end;
  end if;
  token_from := case when tokens < 1 then p_at + make_interval(secs => (1 - tokens) * spacing_s) end;
end $$;

-- Is this the receipt of the probe that is under way?
create function market__is_probe(p market_providers, p_receipt text) returns boolean
language sql immutable as $$
  select p.circuit = 'half_open' and coalesce(strpos(p_receipt || ';', ';probe=' || p.circuit_probe || ';') > 0, false)
$$;

-- A lane in a word. Not ready, it may let a probe go: see market__closed.
create function market__lane_state(p market_providers) returns text
language sql immutable as $$
  select case when not p.enabled then 'off' when p.paused_at is not null then 'paused' when p.circuit = 'closed' then 'ready'
              when p.circuit_reason = 'errors' then 'circuit' else 'cooldown' end
$$;

-- Is the lane closed to everybody? reason null: no. p_after: the receipt of the same fetch's request before, which a
-- half-open circuit lets go on if it is the probe. A probe whose daemon has died is given up.
create function market__closed(p market_providers, p_now timestamptz, p_after text, out reason text, out until timestamptz)
language sql stable as $$
  select l.state, case when l.state in ('circuit', 'cooldown') then p.circuit_until end
    from market__lane_state(p) l(state)
   where l.state in ('off', 'paused')
      or l.state in ('circuit', 'cooldown') and p.circuit_until > p_now
         and not (p.circuit = 'half_open' and (
           market__is_probe(p, p_after)
           or p.circuit_prober is not null and not exists (
                select from market_daemons d where d.daemon_id = p.circuit_prober and d.alive_until > p_now)))
$$;

-- May a request of this urgency leave now? reason null: yes. Else what it waits for, and until when. Changes nothing.
-- In passing it tells the calls left for such work (null: no limit) and how the hour goes on, for those who ask why.
-- p_after: the receipt of the request before, of a fetch that has begun. The spread does not hold it back: the whole
-- fetch would be for nothing (it counts there all the same).
create function market__verdict(p market_providers, s market_settings, p_urgent boolean, p_now timestamptz,
                                p_after text default null, l market__limits default null, out reason text,
                                out until timestamptz, out calls_left int, out hour_quota int, out hour_ends timestamptz,
                                out spacing_s double precision, out day_left int, out day_quota int, out day_ends timestamptz)
language plpgsql stable as $$
declare kind text; h record; allowed timestamptz; ahead_s double precision;
begin
  l := coalesce(l, market__limits(p));
  if not p.enabled or p.paused_at is not null or p.circuit <> 'closed' then
    select c.reason, c.until into reason, until from market__closed(p, p_now, p_after) c;
  end if;
  foreach kind in array array['hour', 'day'] loop
    continue when market__limit(l, kind) is null;
    h := market__shares(p, s, kind, p_now, market__limit(l, kind));
    calls_left := greatest(0, least(calls_left, case when p_urgent then h.urgent_left else h.background_left end));
    if kind = 'hour' then
      hour_quota := h.quota;
      hour_ends := h.ends;
    else
      day_left := case when p_urgent then h.urgent_left else h.background_left end;
      day_quota := h.quota;
      day_ends := h.ends;
    end if;
    spacing_s := greatest(spacing_s, h.spacing_s);
    continue when reason in ('off', 'paused', 'circuit', 'cooldown');
    allowed := case when p_urgent then h.urgent_from
                    else coalesce(h.background_from, case when p_after is null then h.token_from end) end;
    if allowed > p_now and (until is null or allowed > until) then
      reason := 'budget';
      until := allowed;
    end if;
  end loop;
  if reason is null and p.next_request_at > p_now + interval '5 seconds' then
    ahead_s := market__ahead_s(p, l.pace_s, p_now);
    if ahead_s > 5 then
      reason := 'pace';
      until := p_now + make_interval(secs => ahead_s);
    end if;
  end if;
end $$;

-- Three that run as their owner, for views and the command line: who reads those needs no right to what they are made of.
-- All else calls what is behind them, for to change over to the owner and back takes longer than most of it.

create function market__shown_quota(p market_providers, p_kind text) returns int
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  return market__limit(market__limits(p), p_kind);
end $$;

create function market__shown_shares(p market_providers, s market_settings, p_kind text, out starts timestamptz,
  out ends timestamptz, out quota int, out used int, out urgent_left int, out background_left int)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  select h.starts, h.ends, h.quota, h.used, h.urgent_left, h.background_left
    into starts, ends, quota, used, urgent_left, background_left from market__shares(p, s, p_kind, clock_timestamp()) h;
end $$;

create function market__shown_verdict(p market_providers, s market_settings, p_urgent boolean, out reason text, out until timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  select v.reason, v.until into reason, until from market__verdict(p, s, p_urgent, clock_timestamp()) v;
end $$;

-- What of a lane's work may be claimed: what market__verdict says of either kind, from one look at what they share, and
-- whose turn it is.
create function market__claimable(p market_providers, s market_settings, p_now timestamptz, out urgent boolean,
                                  out background boolean, out background_first boolean)
language plpgsql stable as $$
declare kind text; h record; l market__limits := market__limits(p);
begin
  urgent := true;
  if not p.enabled or p.paused_at is not null or p.circuit <> 'closed' then
    select c.reason is null into urgent from market__closed(p, p_now, null) c;
  end if;
  if p.next_request_at > p_now + interval '5 seconds' and market__ahead_s(p, l.pace_s, p_now) > 5 then
    urgent := false;
  end if;
  background := urgent;
  foreach kind in array array['hour', 'day'] loop
    continue when not urgent and not background or market__limit(l, kind) is null;
    h := market__shares(p, s, kind, p_now, market__limit(l, kind));
    urgent := urgent and coalesce(h.urgent_from <= p_now, true);
    background := background and coalesce(coalesce(h.background_from, h.token_from) <= p_now, true);
  end loop;
  background_first := background and market__background_first(p, s, p_now);
end $$;

-- A lane as one kind of work sees it; read once, then good for many jobs.
create type market__lane as (
  provider text, account text, urgent boolean, wake_priority int, alive boolean, first_calls int,
  reason text, words text, until timestamptz, calls_left int, hour_quota int, hour_ends timestamptz, hour_s double precision,
  day_left int, day_quota int, day_ends timestamptz,
  pace_s double precision,      -- between two calls, as pace and the provider's answers allow
  step_s double precision,      -- between two such calls in this hour, spread included
  next_step_s double precision  -- and in those to come
);

-- Seconds that a call has taken of late, per call that live daemons make at a time: a lane is no quicker. null: not known.
create function market__answer_s(p market_providers, p_now timestamptz) returns double precision
language plpgsql stable as $$
declare slots int; took_s double precision;
begin
  select sum((d.quotas -> (p.provider || '/' || p.account) ->> 'slots')::int) into slots
    from market_daemons d where d.alive_until > p_now;
  select sum(m.took_s) / nullif(sum(m.requests), 0) into took_s from market_provider_metrics m
   where m.provider = p.provider and m.account = p.account and m.window_start > p_now - interval '2 hours';
  return took_s / nullif(slots, 0);
end $$;

create function market__lane(p_provider text, p_account text, p_priority int) returns market__lane
language plpgsql stable as $$
declare l market__lane; p market_providers; s market_settings; v record; now_at timestamptz := clock_timestamp();
begin
  select * into s from market_settings;
  select * into p from market_providers m where m.provider = p_provider and m.account = p_account;
  l.provider := p_provider;
  l.account := p_account;
  l.wake_priority := s.wake_priority;
  l.urgent := p_priority >= s.wake_priority;
  l.alive := exists (select from market_daemons d where d.alive_until > now_at);
  if p.provider is null then
    l.reason := 'off';
    l.words := 'the account is not in the configuration any more';
    return l;
  end if;
  v := market__verdict(p, s, l.urgent, now_at);
  l.first_calls := p.first_calls;
  l.reason := v.reason;
  l.until := v.until;
  l.calls_left := v.calls_left;
  l.hour_quota := v.hour_quota;
  l.hour_ends := v.hour_ends;
  l.hour_s := s.hour_s;
  l.day_left := v.day_left;
  l.day_quota := v.day_quota;
  l.day_ends := v.day_ends;
  l.pace_s := greatest(market__pace(p), market__answer_s(p, now_at));
  l.next_step_s := greatest(l.pace_s, case when not l.urgent then 0.95 * s.hour_s / nullif(v.hour_quota, 0) end);
  l.step_s := greatest(l.pace_s, case when not l.urgent then v.spacing_s end);
  l.words := case v.reason
    when 'off' then coalesce(p.off_reason, 'the provider is switched off in the configuration')
    when 'paused' then concat_ws(': ', 'paused by an operator', p.paused_reason)
    when 'cooldown' then concat_ws(': ', case p.circuit_reason when 'unauthorized' then 'credentials were refused'
                                                               else 'the provider throttles us' end, p.circuit_detail)
    when 'circuit' then concat_ws(': ', 'the provider fails', p.circuit_detail)
    when 'budget' then format('%s calls left for %s work', coalesce(v.calls_left, 0),
                              case when l.urgent then 'urgent' else 'background' end)
    when 'pace' then 'requests are spaced' end;
  return l;
end $$;

-- Charges one request: all windows and the pace, or nothing. One caller at a time per provider account (row lock), so
-- each sees what the one before it took. A granted request leaves after delay_s (hardly any) and before valid_s are
-- over; step_s is the spacing that it was charged at. wait_s: not now, but so soon that asking again then is better than giving
-- the fetch up. So nothing is charged that has long to wait, and who dies or is paused while waiting has spent nothing.
-- p_lead_s: no moment sooner than so, for the answer is that long on its way to a caller far away.
create function market_take(p_provider text, p_account text, p_priority int, p_meter text default 'calls',
  p_after text default null, p_daemon uuid default null, p_lead_s double precision default 0,
  out granted boolean, out reason text, out until timestamptz, out wait_s double precision,
  out granted_at timestamptz, out delay_s double precision, out valid_s double precision, out receipt text,
  out cost_window timestamptz, out step_s double precision)
language plpgsql as $$
declare p market_providers; s market_settings;
begin
  select * into s from market_settings;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  select c.* into granted, reason, until, wait_s, granted_at, delay_s, valid_s, receipt, cost_window, step_s
    from market__charge(p, s, p_priority, p_meter, p_after, clock_timestamp(), p_daemon, p_lead_s) c;
end $$;

-- The same at a given time, by whoever holds the account's row. That of an unknown account is null.
create function market__charge(p market_providers, s market_settings, p_priority int, p_meter text, p_after text,
  p_now timestamptz, p_daemon uuid default null, p_lead_s double precision default 0,
  out granted boolean, out reason text, out until timestamptz, out wait_s double precision,
  out granted_at timestamptz, out delay_s double precision, out valid_s double precision, out receipt text,
  out cost_window timestamptz, out step_s double precision)
language plpgsql as $$
declare
  v record; w record; h record; kind text; limited int; urgent boolean := p_priority >= s.wake_priority; kinds text[];
  guard double precision := market__guard(s); edge_s double precision := 0; grant_no bigint;
  tokens double precision; l market__limits; starts timestamptz[] := '{}'; ends timestamptz[] := '{}';
begin
  granted := false;
  if p.provider is null then
    reason := 'off';
    return;
  end if;
  l := market__limits(p);
  kinds := case when p_meter = 'calls' then array['hour', 'day'] else array[p_meter] end;
  if p_meter = 'calls' then
    select x.reason, x.until into reason, until from market__verdict(p, s, urgent, p_now, p_after, l) x;
    step_s := l.pace_s;
    delay_s := greatest(market__ahead_s(p, step_s, p_now), p_lead_s);
  else
    -- A report on a spent day goes to another place, and may tell that the day is over earlier.
    select x.reason, x.until into reason, until from market__closed(p, p_now, p_after) x
     where not (p_meter = 'reports' and p.circuit_day_spent and p.enabled and p.paused_at is null);
    delay_s := 0;
  end if;
  if reason is not null then
    perform market__note_refusal(p, s, reason, p_now);
    return;
  end if;
  foreach kind in array kinds loop
    limited := market__limit(l, kind);
    w := market__window(p, s, case when kind in ('mints', 'reports') then 'day' else kind end, p_now);
    starts := starts || w.starts;
    ends := ends || w.ends;
    if limited is not null then
      edge_s := greatest(edge_s, case
        when date_part('epoch', w.ends - p_now) < guard + p_lead_s then date_part('epoch', w.ends - p_now) + guard / 2
        else guard / 2 - date_part('epoch', p_now - w.starts) end);
    end if;
    select b.used, b.quota into h from market_budgets b
     where b.provider = p.provider and b.account = p.account and b.window_kind = kind and b.window_start = w.starts;
    if not found or h.quota is distinct from limited then
      insert into market_budgets (provider, account, window_kind, window_start, window_end, quota)
      values (p.provider, p.account, kind, w.starts, w.ends, limited)
      on conflict (provider, account, window_kind, window_start) do update set quota = excluded.quota;
    end if;
    if h.used >= limited then
      reason := 'budget';
      until := w.ends;
      return;
    end if;
  end loop;
  if edge_s > 0 or delay_s > p_lead_s + market__early(s) then
    reason := 'pace';
    until := p_now + make_interval(secs => greatest(edge_s, delay_s));
    wait_s := greatest(edge_s, delay_s - p_lead_s - market__early(s) / 2);   -- so that the way here and back is no lost time
    return;
  end if;
  granted_at := p_now + make_interval(secs => delay_s);
  cost_window := starts[1];
  for i in 1 .. cardinality(kinds) loop
    tokens := null;
    limited := market__limit(l, kinds[i]);
    if p_meter = 'calls' and not urgent and limited is not null then
      select x.tokens into tokens from market__shares(p, s, kinds[i], p_now, limited) x;
    end if;
    update market_budgets b set used = b.used + 1, used_background = b.used_background + (not urgent)::int,
      background_tokens = coalesce(tokens - 1, b.background_tokens),
      background_at = case when p_meter = 'calls' and not urgent then p_now else b.background_at end
     where b.provider = p.provider and b.account = p.account and b.window_kind = kinds[i] and b.window_start = starts[i];
    receipt := concat_ws(';', receipt, kinds[i] || '=' || date_part('epoch', starts[i])::text);
    valid_s := least(valid_s, date_part('epoch', ends[i] - p_now) - guard / 2);
  end loop;
  if p_meter = 'calls' then
    if p.rolling then
      insert into market_grants (provider, account, send_at) values (p.provider, p.account, granted_at)
      returning grant_id into grant_no;
      receipt := concat_ws(';', receipt, 'grant=' || grant_no);
    end if;
    update market_providers m set next_request_at = market__charge.granted_at + make_interval(secs => step_s)
     where m.provider = p.provider and m.account = p.account;
  end if;
  -- One probe over all daemons, be it a token that is asked for first; given up when its daemon dies, or when nothing is
  -- heard of it for two minutes.
  if p.circuit <> 'closed' and p_meter <> 'reports' then
    update market_providers m set circuit = 'half_open', circuit_until = p_now + interval '2 minutes',
      circuit_probe = m.circuit_probe + 1, circuit_prober = p_daemon
    where m.provider = p.provider and m.account = p.account;
    receipt := concat_ws(';', receipt, 'probe=' || p.circuit_probe + 1);
  end if;
  granted := true;
  valid_s := least(valid_s, delay_s + 5 * guard);
  receipt := concat_ws(';', p.provider, p.account, (not urgent)::int, receipt);
end $$;

-- A granted request missed its moment, its connection or its process having taken long: another one, at the same price. If
-- nobody was granted one since, the present moment will do; else a place of its own behind the others. wait_s: not yet,
-- ask again then, or step_s later for each who was told so before. reason not null: the lane was closed meanwhile.
create function market_move(p_provider text, p_account text, p_receipt text, p_missed timestamptz,
  p_lead_s double precision default 0, out reason text,
  out until timestamptz, out wait_s double precision, out moment timestamptz, out delay_s double precision,
  out step_s double precision)
language plpgsql as $$
declare p market_providers; now_at timestamptz;
begin
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  now_at := clock_timestamp();
  select c.reason, c.until into reason, until from market__closed(p, now_at, p_receipt) c;
  if reason is not null then
    return;
  end if;
  step_s := market__pace(p);
  if p.next_request_at > p_missed + make_interval(secs => step_s) then
    delay_s := market__ahead_s(p, step_s, now_at);
  else
    delay_s := 0;
  end if;
  delay_s := greatest(delay_s, p_lead_s);
  if delay_s > p_lead_s + market__early((select s from market_settings s)) then
    wait_s := delay_s - p_lead_s - 0.01;
    return;
  end if;
  moment := now_at + make_interval(secs => delay_s);
  update market_providers m set next_request_at = moment + make_interval(secs => step_s)
   where m.provider = p_provider and m.account = p_account;
end $$;

-- Is it background's turn, although urgent work waits? Where not the budget but the pace (or a slow provider) is what
-- there is too little of, urgent work never reaches what is kept for background. So background has its part of the calls
-- as they go: background_min of all, or as many more as make background_min of the quota where the pace carries less than
-- that, at most twice as many. In the window's last 5 % urgent work goes first.
create function market__background_first(p market_providers, s market_settings, p_now timestamptz) returns boolean
language plpgsql stable as $$
declare w record; b record; head text; l market__limits; carries double precision; part double precision;
begin
  if p.background_min = 0 then
    return false;
  end if;
  select j.unit_key into head from market_jobs j
   where j.provider = p.provider and j.account = p.account and j.status = 'pending' and j.priority < s.wake_priority
   order by j.priority desc, j.rank desc, j.turn, j.run_at, j.id limit 1;
  if head is null   -- looked for first: most that is woken finds no background waiting
     or coalesce((select j.priority from market_jobs j where j.provider = p.provider and j.account = p.account
                   and j.status = 'pending' order by j.priority desc limit 1), 0) < s.wake_priority then
    return false;
  end if;
  w := market__window(p, s, 'hour', p_now);
  select m.used, m.used_background into b from market_budgets m
   where m.provider = p.provider and m.account = p.account and m.window_kind = 'hour' and m.window_start = w.starts;
  if b.used is null or date_part('epoch', w.ends - p_now) <= 0.05 * s.hour_s then
    return false;
  end if;
  l := market__limits(p);
  carries := 0.95 * s.hour_s / nullif(l.pace_s, 0);
  part := p.background_min * least(2, greatest(1, l.hour / carries));
  if b.used_background + 0.5 > part * (b.used + 1)
     or exists (select from market_fetches f where f.unit_key = head and f.lease_expires_at > p_now) then
    return false;   -- it had its part, or a fetch of its product is under way already
  end if;
  -- One that was claimed and waits for the pace is not charged yet.
  return not exists (select from market_jobs j
    where j.status = 'running' and j.provider = p.provider and j.account = p.account and j.priority < s.wake_priority
      and j.lease_expires_at > p_now);
end $$;

-- Exponential smoothing of the on-demand calls of p_s seconds: those that ended five minutes ago, for a call stands in the record
-- when its fetch is over. A rate that only fades ends as 0; as a number too small to
-- compute with it would fail every charge after half a year. An account whose row somebody keeps (an operator's open transaction)
-- learns with the next pass, and keeps no other from learning now. Returns how many have learned.
create function market__learn_demand(p_s double precision) returns int
language plpgsql set lock_timeout = '200ms' as $$
declare a record; n int := 0;
begin
  for a in
    select p.provider, p.account, p.on_demand_per_h * exp(-p_s / 21600) + (1 - exp(-p_s / 21600)) * 3600 / greatest(p_s, 1) *
        (select count(*) from market_requests r, market_settings s where r.provider = p.provider and r.account = p.account
          and r.priority >= s.wake_priority and r.meter = 'calls' and not r.given_back
          and r.granted_at > (select clock_timestamp()) - make_interval(secs => p_s, mins => 5)
          and r.granted_at <= (select clock_timestamp()) - interval '5 minutes') - 1e-12 as per_h
      from market_providers p order by p.provider, p.account
  loop
    begin
      update market_providers p set on_demand_per_h = greatest(0, a.per_h) where p.provider = a.provider and p.account = a.account;
      n := n + 1;
    exception when lock_not_available then
      perform set_config('lock_timeout', '1ms', true);   -- whoever keeps one may keep all, and a pass waits once
    end;
  end loop;
  return n;
end $$;

create function market__note_refusal(p market_providers, s market_settings, p_reason text, p_now timestamptz)
returns void language sql as $$
  update market_budgets b set refused = b.refused + 1
    from market__window(p, s, 'hour', p_now) w
   where p_reason = 'budget' and b.provider = p.provider and b.account = p.account
     and b.window_kind = 'hour' and b.window_start = w.starts
$$;

-- Returns the charge of a request that provably never left. The pace stays as it is: a gap is harmless.
create function market_give_back(p_receipt text) returns int
language plpgsql as $$
declare parts text[] := string_to_array(p_receipt, ';'); entry text; word text; n int := 0;
begin
  -- The same lock order as market_take: provider first, then its windows.
  perform from market_providers where provider = parts[1] and account = parts[2] for no key update;
  foreach entry in array parts[4:] loop
    word := split_part(entry, '=', 2);
    case split_part(entry, '=', 1)
    when 'grant' then
      delete from market_grants where grant_id = word::bigint;
    when 'probe' then
      -- A probe that never left leaves the circuit as it was: due for a probe.
      update market_providers set circuit = 'open', circuit_until = clock_timestamp()
       where provider = parts[1] and account = parts[2] and circuit = 'half_open' and circuit_probe = word::bigint;
    else
      update market_budgets set used = greatest(0, used - 1), used_background = greatest(0, used_background - parts[3]::int),
        background_tokens = background_tokens + parts[3]::int, given_back = given_back + 1
       where provider = parts[1] and account = parts[2] and window_kind = split_part(entry, '=', 1)
         and window_start = to_timestamp(word::double precision);
      n := n + 1;
    end case;
  end loop;
  return n;
end $$;

-- A request came back: trouble moves the circuit, success closes it. p_kind: ok, throttled, unauthorized, errors.
-- p_receipt: of its fetch's latest call. What left before the trouble was known tells nothing of what came after: only the
-- probe itself closes the circuit or opens it for longer. But the provider's own word on when to come back always counts.
create function market_report(p_provider text, p_account text, p_kind text, p_retry_after_s double precision default null,
  p_day_spent boolean default false, p_detail text default null, p_receipt text default null,
  out state text, out until timestamptz, out changed boolean)
language plpgsql as $$
declare p market_providers; s market_settings; wait_s double precision; now_at timestamptz; w record; probe boolean; told boolean;
begin
  select * into s from market_settings;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  now_at := clock_timestamp();
  state := p.circuit;
  until := p.circuit_until;
  changed := false;
  probe := market__is_probe(p, p_receipt);
  -- "Retry after 0" (or a date that is past) is no word at all: else each probe would follow the one before.
  told := p_retry_after_s > 0 or p_day_spent;
  if p_kind = 'ok' then
    if p.circuit = 'closed' and p.circuit_failures > 0 or probe then
      changed := probe;
      update market_providers set circuit = 'closed', circuit_reason = null, circuit_until = null, circuit_detail = null,
        circuit_day_spent = false, circuit_failures = 0, circuit_opens = 0, circuit_prober = null
       where provider = p_provider and account = p_account;
      state := 'closed';
      until := null;
      if probe then   -- who waits for the probe's answer has it now
        perform pg_notify('market_jobs', p_provider);
      end if;
    end if;
    return;
  end if;
  if p.circuit <> 'closed' and not probe and (p_kind <> 'throttled' or told is not true) then
    return;
  end if;
  if p_kind = 'errors' and p.circuit = 'closed' and p.circuit_failures + 1 < p.circuit_after then
    update market_providers set circuit_failures = circuit_failures + 1
     where provider = p_provider and account = p_account;
    return;
  end if;
  if p_day_spent then
    select * into w from market__window(p, s, 'day', now_at);
    wait_s := greatest(date_part('epoch', w.ends - now_at), coalesce(p_retry_after_s, 0));
  else
    wait_s := coalesce(case when p_retry_after_s > 0 then p_retry_after_s end,
      case p_kind when 'throttled' then least(300, 2 * 2 ^ least(p.circuit_opens, 20))
                  when 'unauthorized' then 900
                  else least(300, p.circuit_open_s * 2 ^ least(p.circuit_opens, 20)) end);
  end if;
  state := 'open';
  until := now_at + make_interval(secs => least(wait_s, 90000));   -- no provider's day has more than 25 hours
  if p.circuit = 'open' and p.circuit_until > until then
    until := p.circuit_until;   -- a shorter word never cuts a longer one
  end if;
  changed := p.circuit <> 'open' or p.circuit_reason <> p_kind or p.circuit_until < until;
  update market_providers m set circuit = 'open', circuit_reason = p_kind, circuit_until = market_report.until,
    circuit_detail = left(p_detail, 300), circuit_day_spent = p_day_spent, circuit_failures = m.circuit_failures + 1,
    -- several requests that were under way together are one piece of trouble
    circuit_opens = m.circuit_opens + (p.circuit = 'closed' or probe)::int, circuit_prober = null
   where m.provider = p_provider and m.account = p_account;
end $$;

-- Calls of a kind that may have left since p_from: what is charged in windows that end later, without what the call record
-- proves to be earlier. Where several windows reach back beyond p_from nothing is taken off: nobody knows which was charged.
create function market__calls_since(p market_providers, p_kind text, p_from timestamptz) returns int
language sql stable as $$
  with reaching as (
    select b.window_start, b.used - b.carried as calls, b.window_start < p_from as partly from market_budgets b
     where b.provider = p.provider and b.account = p.account and b.window_kind = p_kind and b.window_end > p_from
  ), before as (
    select min(r.window_start) as starts, sum(r.calls) as calls from reaching r where r.partly
  )
  select (coalesce((select sum(r.calls) from reaching r), 0)
          - case when (select count(*) from market_budgets b
                        where b.provider = p.provider and b.account = p.account and b.window_kind = p_kind
                          and b.window_start < p_from and b.window_end > e.starts) = 1
                 then least(e.calls, (select count(*) from market_requests q
                        where q.granted_at >= e.starts and q.granted_at < p_from and q.provider = p.provider
                          and q.account = p.account and not q.given_back
                          and q.meter = case when p_kind in ('hour', 'day') then 'calls' else p_kind end))
                 else 0 end)::int
    from before e
$$;

-- A configuration may move the windows of an account (its day's start or zone, an hour that rolls): what was charged in those
-- before is charged in the present ones, too, else each such change would bring the quota once more. Does nothing else.
create function market__carry(p market_providers, s market_settings, p_now timestamptz) returns void
language plpgsql as $$
declare kind text; w record; reach_from timestamptz; granted int; missing int;
begin
  foreach kind in array array['hour', 'day', 'mints', 'reports'] loop
    w := market__window(p, s, case kind when 'hour' then kind else 'day' end, p_now);
    continue when not exists (
      select from market_budgets b where b.provider = p.provider and b.account = p.account and b.window_kind = kind
         and b.window_start < w.ends and b.window_end > w.starts and b.window_start <> w.starts);
    insert into market_budgets as b (provider, account, window_kind, window_start, window_end, used, carried)
    select p.provider, p.account, kind, w.starts, w.ends, c.calls, c.calls
      from market__calls_since(p, kind, w.starts) c(calls)
    on conflict (provider, account, window_kind, window_start) do update set
      used = greatest(b.used, excluded.used),
      carried = greatest(b.used, excluded.used) - (b.used - b.carried);
  end loop;
  if p.rolling then
    -- Whose hour did not roll has no grants yet: a call stands where the record has it, else now.
    reach_from := p_now - make_interval(secs => s.hour_s + 6 * market__guard(s));
    select count(*) into granted from market_grants g
     where g.provider = p.provider and g.account = p.account and g.send_at > reach_from;
    missing := least(market__calls_since(p, 'hour', reach_from), p.quota_hour) - granted;   -- more would look like an overshoot
    insert into market_grants (provider, account, send_at)
    select p.provider, p.account, coalesce(r.granted_at, p_now)
      from generate_series(1, missing) n
      left join (select q.granted_at, row_number() over (order by q.granted_at desc) as nth from market_requests q
                  where q.granted_at > reach_from and q.provider = p.provider and q.account = p.account
                    and q.meter = 'calls' and not q.given_back) r on r.nth = n;
  end if;
end $$;

-- What the provider itself counts of our day: the lower of the two remainders holds. Returns the drift.
create function market_reconcile(p_provider text, p_account text, p_remaining int, p_reset timestamptz) returns int
language plpgsql as $$
declare p market_providers; s market_settings; w record; drift int; known int;
begin
  select * into s from market_settings;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  if not found or p.quota_day is null then
    return null;
  end if;
  select * into w from market__window(p, s, 'day', clock_timestamp());
  insert into market_budgets (provider, account, window_kind, window_start, window_end, quota)
  values (p_provider, p_account, 'day', w.starts, w.ends, p.quota_day)
  on conflict (provider, account, window_kind, window_start) do nothing;
  select used into known from market_budgets
   where provider = p_provider and account = p_account and window_kind = 'day' and window_start = w.starts;
  drift := (p.quota_day - known) - p_remaining;
  -- The provider's figures lag behind, so fewer used than we know of means nothing.
  update market_budgets set used = used + greatest(0, drift)
   where drift > 0 and provider = p_provider and account = p_account and window_kind = 'day' and window_start = w.starts;
  -- A day that the provider calls spent ends when the provider says so.
  update market_providers set reported_remaining = p_remaining, reported_at = clock_timestamp(), reported_drift = drift,
    circuit_until = case when circuit = 'open' and circuit_reason = 'throttled' and p_remaining = 0
                         then coalesce(p_reset, circuit_until) else circuit_until end
   where provider = p_provider and account = p_account;
  return drift;
end $$;
