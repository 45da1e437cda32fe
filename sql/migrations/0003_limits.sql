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
  ends := (local_day + interval '1 day') at time zone p.day_zone;
end $$;

-- A window's last second (less where windows are shortened) belongs to nobody: the provider's clock may already be in
-- the next one. A grant is valid for five such seconds.
create function market__guard(s market_settings) returns double precision
language sql immutable as $$ select least(1, s.hour_s / 20) $$;

-- Three functions run as their owner, so that views that show budgets need no right to what they are made of.

-- The lowest quota that any live daemon was configured with, and the stored one: two configurations may differ for
-- the time of a rolling restart, and then the lower limit holds.
create function market__quota(p market_providers, p_kind text) returns int
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$   -- plpgsql keeps its plans; SQL functions are planned at every call
declare told int;
begin
  select min((d.quotas -> (p.provider || '/' || p.account) ->> p_kind)::int) into told
    from market_daemons d where d.alive_until > clock_timestamp();
  return least(told, case p_kind when 'hour' then p.quota_hour when 'day' then p.quota_day else 1000 end);
end $$;

-- Calls of the present window: what is used, what is kept for whom, and when background may go.
--   reserve: kept for urgent work; shrinks with the time that is left, is gone in the window's last 5 %.
--   background_min: kept for background while some waits; open to all in the window's last 5 %.
--   spacing: background is spread evenly over what is left of the window (in its first 95 %).
create function market__shares(p market_providers, s market_settings, p_kind text, p_at timestamptz,
  out starts timestamptz, out ends timestamptz, out quota int, out used int, out urgent_left int,
  out background_left int, out spacing_s double precision, out tolerance int)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare w record; used_bg int; rem double precision; len double precision; keep double precision; late boolean; expected double precision;
begin
  quota := market__quota(p, p_kind);
  if quota is null then
    return;
  end if;
  w := market__window(p, s, p_kind, p_at);
  starts := w.starts;
  ends := w.ends;
  select b.used, b.used_background into used, used_bg from market_budgets b
   where b.provider = p.provider and b.account = p.account and b.window_kind = p_kind and b.window_start = w.starts;
  used := coalesce(used, 0);
  used_bg := coalesce(used_bg, 0);
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
  background_left := quota - used - least(keep, quota)::int;
  urgent_left := quota - used;
  if urgent_left > 0 and p.background_min > 0 and not late then
    keep := greatest(0, ceil(p.background_min * quota) - used_bg);
    -- min() and not EXISTS: its plan can only be one step down an index.
    if keep > 0 and (select min(j.priority) from market_jobs j where j.provider = p.provider and j.account = p.account
                        and j.status = 'pending') < s.wake_priority then
      urgent_left := greatest(0, urgent_left - keep::int);
      -- What is kept for background is not the reserve's to refuse.
      background_left := greatest(background_left, least(keep::int, quota - used));
    end if;
  end if;
  spacing_s := greatest(0, rem - 0.05 * len) / greatest(1, background_left);
  tolerance := greatest(1, quota / 10);
end $$;

-- May a request of this urgency leave now? reason null: yes. Else what it waits for, and until when. Changes nothing.
-- In passing it tells the calls left for such work (null: no limit) and how the hour goes on, for those who ask why.
-- p_goes_on: a further request of a fetch that has begun. Neither the spread holds it back (the whole fetch would be for
-- nothing; it counts there all the same) nor the half-open circuit, whose probe it belongs to.
create function market__verdict(p market_providers, s market_settings, p_urgent boolean, p_now timestamptz,
                                p_goes_on boolean default false, out reason text, out until timestamptz, out calls_left int, out hour_quota int,
                                out hour_ends timestamptz, out spacing_s double precision)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare kind text; h record; allowed timestamptz;
begin
  if not p.enabled then
    reason := 'off';
  elsif p.paused_at is not null then
    reason := 'paused';
  elsif p.circuit <> 'closed' and p.circuit_until > p_now and not (p_goes_on and p.circuit = 'half_open') then
    reason := case when p.circuit_reason = 'errors' then 'circuit' else 'cooldown' end;
    until := p.circuit_until;
  end if;
  foreach kind in array array['hour', 'day'] loop
    h := market__shares(p, s, kind, p_now);
    continue when h.quota is null;
    calls_left := greatest(0, least(calls_left, case when p_urgent then h.urgent_left else h.background_left end));
    if kind = 'hour' then
      hour_quota := h.quota;
      hour_ends := h.ends;
      spacing_s := h.spacing_s;
    end if;
    continue when reason in ('off', 'paused', 'circuit', 'cooldown');
    allowed := null;
    if h.used >= h.quota then
      allowed := h.ends;
    elsif p_urgent and h.urgent_left <= 0 or not p_urgent and h.background_left <= 0 then
      allowed := h.ends - 0.05 * (h.ends - h.starts);
    elsif not p_urgent and not p_goes_on then
      allowed := p.background_tat - make_interval(secs => h.spacing_s * (h.tolerance - 1));
    end if;
    if allowed > p_now and (until is null or allowed > until) then
      reason := 'budget';
      until := allowed;
    end if;
  end loop;
  if reason is null and p.next_request_at > p_now + interval '5 seconds' then
    reason := 'pace';
    until := p.next_request_at;
  end if;
end $$;

-- A lane as one kind of work sees it; read once, then good for many jobs.
create type market__lane as (
  provider text, account text, urgent boolean, wake_priority int, alive boolean,
  reason text, words text, until timestamptz, calls_left int, hour_quota int, hour_ends timestamptz, hour_s double precision,
  step_s double precision,      -- between two calls in this hour
  next_step_s double precision  -- and in those to come
);

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
  l.reason := v.reason;
  l.until := v.until;
  l.calls_left := v.calls_left;
  l.hour_quota := v.hour_quota;
  l.hour_ends := v.hour_ends;
  l.hour_s := s.hour_s;
  l.next_step_s := greatest(p.pace_s * 1.05, case when not l.urgent then 0.95 * s.hour_s / nullif(v.hour_quota, 0) end);
  l.step_s := greatest(p.pace_s * 1.05, case when not l.urgent then v.spacing_s end);
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
-- each sees what the one before it took. A granted request leaves after delay_s and before valid_s are over.
create function market_take(p_provider text, p_account text, p_priority int, p_meter text default 'calls',
  p_goes_on boolean default false, out granted boolean, out reason text, out until timestamptz, out granted_at timestamptz,
  out delay_s double precision, out valid_s double precision, out receipt text)
language plpgsql as $$
declare
  p market_providers; s market_settings; v record; w record; h record; kind text;
  now_at timestamptz; send_at timestamptz; guard interval; urgent boolean; spacing double precision := 0; kinds text[];
  grant_no bigint;
begin
  select * into s from market_settings;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  now_at := clock_timestamp();
  granted := false;
  urgent := p_priority >= s.wake_priority;
  if not found then
    reason := 'off';
    return;
  end if;
  kinds := case when p_meter = 'calls' then array['hour', 'day'] else array[p_meter] end;
  if p_meter = 'calls' then
    select * into v from market__verdict(p, s, urgent, now_at, p_goes_on);
    if v.reason is not null then
      reason := v.reason;
      until := v.until;
      perform market__note_refusal(p, s, v.reason, now_at);
      return;
    end if;
  elsif not p.enabled or p.paused_at is not null then
    reason := case when p.enabled then 'paused' else 'off' end;
    return;
  end if;
  send_at := case when p_meter = 'calls' then greatest(now_at, p.next_request_at) else now_at end;
  guard := make_interval(secs => market__guard(s));
  foreach kind in array kinds loop
    select * into w from market__window(p, s, case when kind in ('mints', 'reports') then 'day' else kind end, send_at);
    if w.ends - send_at < guard and market__quota(p, kind) is not null then
      send_at := w.ends + guard / 20;
    end if;
  end loop;
  foreach kind in array kinds loop
    select * into w from market__window(p, s, case when kind in ('mints', 'reports') then 'day' else kind end, send_at);
    insert into market_budgets as b (provider, account, window_kind, window_start, window_end, quota)
    values (p_provider, p_account, kind, w.starts, w.ends, market__quota(p, kind))
    on conflict (provider, account, window_kind, window_start) do update set quota = excluded.quota
      where b.quota is distinct from excluded.quota;
    select b.* into h from market_budgets b
     where b.provider = p_provider and b.account = p_account and b.window_kind = kind and b.window_start = w.starts;
    if h.used >= h.quota then     -- only after a shift into the next window, or for mints
      reason := 'budget';
      until := h.window_end;
      return;
    end if;
  end loop;
  foreach kind in array kinds loop
    select * into w from market__window(p, s, case when kind in ('mints', 'reports') then 'day' else kind end, send_at);
    if p_meter = 'calls' then
      select * into h from market__shares(p, s, kind, send_at);
      spacing := greatest(spacing, coalesce(h.spacing_s, 0));
    end if;
    update market_budgets b set used = b.used + 1, used_background = b.used_background + (not urgent)::int
     where b.provider = p_provider and b.account = p_account and b.window_kind = kind and b.window_start = w.starts;
    receipt := concat_ws(';', receipt, kind || '=' || date_part('epoch', w.starts)::text);
    valid_s := least(valid_s, date_part('epoch', w.ends - now_at) - date_part('epoch', guard) / 2);
  end loop;
  if p_meter = 'calls' then
    if p.rolling then
      insert into market_grants (provider, account, send_at) values (p_provider, p_account, send_at)
      returning grant_id into grant_no;
      receipt := concat_ws(';', receipt, 'grant=' || grant_no);
    end if;
    update market_providers m set
      -- 5 % wider than asked: the network's jitter must not make two requests look closer than they left.
      next_request_at = send_at + make_interval(secs => p.pace_s * 1.05),
      background_tat = case when urgent then m.background_tat
                            else greatest(m.background_tat, now_at) + make_interval(secs => spacing) end,
      circuit = case when m.circuit = 'open' then 'half_open' else m.circuit end,
      -- one probe over all daemons; given up when nothing is heard of it for two minutes
      circuit_until = case when m.circuit = 'closed' then m.circuit_until else now_at + interval '2 minutes' end
    where m.provider = p_provider and m.account = p_account;
  end if;
  granted := true;
  granted_at := send_at;
  delay_s := greatest(0, date_part('epoch', send_at - now_at));
  valid_s := least(valid_s, delay_s + 5 * market__guard(s));
  receipt := concat_ws(';', p_provider, p_account, (not urgent)::int, receipt);
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
declare parts text[] := string_to_array(p_receipt, ';'); entry text; n int := 0;
begin
  -- The same lock order as market_take: provider first, then its windows.
  perform from market_providers where provider = parts[1] and account = parts[2] for no key update;
  foreach entry in array parts[4:] loop
    if split_part(entry, '=', 1) = 'grant' then
      delete from market_grants where grant_id = split_part(entry, '=', 2)::bigint;
      continue;
    end if;
    update market_budgets set used = greatest(0, used - 1),
      used_background = greatest(0, used_background - parts[3]::int), given_back = given_back + 1
     where provider = parts[1] and account = parts[2] and window_kind = split_part(entry, '=', 1)
       and window_start = to_timestamp(split_part(entry, '=', 2)::double precision);
    n := n + 1;
  end loop;
  -- A probe that never left leaves the circuit as it was: due for a probe.
  update market_providers set circuit = 'open', circuit_until = clock_timestamp()
   where provider = parts[1] and account = parts[2] and circuit = 'half_open';
  return n;
end $$;

-- A request came back: trouble moves the circuit, success closes it. p_kind: ok, throttled, unauthorized, errors.
create function market_report(p_provider text, p_account text, p_kind text, p_retry_after_s double precision default null,
  p_day_spent boolean default false, p_detail text default null,
  out state text, out until timestamptz, out changed boolean)
language plpgsql as $$
declare p market_providers; s market_settings; wait_s double precision; now_at timestamptz; w record;
begin
  select * into s from market_settings;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  now_at := clock_timestamp();
  state := p.circuit;
  until := p.circuit_until;
  changed := false;
  if p_kind = 'ok' then
    if p.circuit = 'closed' and p.circuit_failures = 0 or p.circuit = 'open' and p.circuit_until > now_at then
      return;   -- nothing to close, or an answer from before the trouble
    end if;
    changed := p.circuit <> 'closed';
    update market_providers set circuit = 'closed', circuit_reason = null, circuit_until = null, circuit_detail = null,
      circuit_failures = 0, circuit_opens = 0 where provider = p_provider and account = p_account;
    state := 'closed';
    until := null;
    return;
  end if;
  if p_kind = 'errors' and p.circuit = 'open' and p.circuit_until > now_at then
    return;   -- sent before the circuit opened; it tells nothing new
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
    wait_s := coalesce(p_retry_after_s,
      case p_kind when 'throttled' then least(300, 2 * 2 ^ least(p.circuit_opens, 20))
                  when 'unauthorized' then 900
                  else least(300, p.circuit_open_s * 2 ^ least(p.circuit_opens, 20)) end);
  end if;
  state := 'open';
  until := now_at + make_interval(secs => least(wait_s, 172800));
  if p.circuit = 'open' and p.circuit_until > until then
    until := p.circuit_until;   -- a shorter word never cuts a longer one
  end if;
  changed := p.circuit <> 'open' or p.circuit_reason <> p_kind or p.circuit_until < until;
  update market_providers m set circuit = 'open', circuit_reason = p_kind, circuit_until = market_report.until,
    circuit_detail = left(p_detail, 300), circuit_failures = m.circuit_failures + 1,
    -- several requests that were under way together are one piece of trouble
    circuit_opens = m.circuit_opens + (p.circuit <> 'open' or p.circuit_until <= now_at)::int
   where m.provider = p_provider and m.account = p_account;
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
