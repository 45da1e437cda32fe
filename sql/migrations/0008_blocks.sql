-- Blocks of calls: one charge for many requests, where every limit is far away.
-- With a call a second each is charged alone, exactly. A provider that allows hundreds a second would wait for the row lock
-- and the commit of each; there a daemon is given some ahead, and hands them out to its fetches by itself.

-- Charges up to p_calls requests of one urgency together. calls 0: a limit is near (or the lane closed), and each request has to
-- be charged alone. The first may leave after delay_s, each further one step_s after the one before. They are handed out
-- before hold_s are over, a twentieth of a second after the last one's turn at most: so soon a pause, a 429 or an open circuit is
-- heeded. Who was handed one may take until valid_s for its connection, as with a charge of its own. What makes a block harmless:
--   it is never more than a fiftieth of a second's calls, and none leaves more than a tenth of a second after its turn (the
--   pace moves along where a connection takes longer). So a sliding second holds the turns of 1.1 seconds, which are spaced
--   10 % wider than asked;
--   it is never more than a sixteenth of what is left to such work in any window, so who dies with it hoards little;
--   it is void before its window's last second begins.
create function market__charge_block(p market_providers, s market_settings, p_urgent boolean, p_calls int, p_now timestamptz,
  out calls int, out granted_at timestamptz, out delay_s double precision, out step_s double precision,
  out hold_s double precision, out valid_s double precision, out receipt text, out cost_window timestamptz)
language plpgsql as $$
declare v record; w record; kind text; limited int; guard double precision := market__guard(s); at_most double precision;
  free double precision; tokens double precision[] := '{}';   -- of each kind; null: background is not spread there
  l market__limits;
begin
  calls := 0;
  if p.provider is null or p.rolling or p.circuit <> 'closed' then
    return;
  end if;
  l := market__limits(p);
  select x.reason, x.calls_left into v from market__verdict(p, s, p_urgent, p_now, null, l) x;
  step_s := l.pace_s;
  delay_s := market__ahead_s(p, step_s, p_now);
  if v.reason is not null or delay_s > least(0.1, guard / 4) then
    return;
  end if;
  at_most := least(p_calls, 256, floor(0.02 / nullif(step_s, 0)), v.calls_left / 16);
  foreach kind in array array['hour', 'day'] loop
    limited := market__limit(l, kind);
    select * into w from market__window(p, s, kind, p_now);
    free := null;
    if limited is not null then
      if date_part('epoch', w.ends - p_now) < guard + 0.5 or date_part('epoch', p_now - w.starts) < guard / 2 then
        return;
      end if;
      if not p_urgent then
        select x.tokens into free from market__shares(p, s, kind, p_now, limited) x;
        at_most := least(at_most, floor(free));
      end if;
    end if;
    tokens := array_append(tokens, free);
  end loop;
  if coalesce(at_most, 0) < 2 then
    return;
  end if;
  calls := at_most::int;
  granted_at := p_now + make_interval(secs => delay_s);
  hold_s := delay_s + 0.05;
  valid_s := delay_s + 5 * guard;
  foreach kind in array array['hour', 'day'] loop
    select * into w from market__window(p, s, kind, p_now);
    cost_window := coalesce(cost_window, w.starts);
    limited := market__limit(l, kind);
    insert into market_budgets as b (provider, account, window_kind, window_start, window_end, quota)
    values (p.provider, p.account, kind, w.starts, w.ends, limited)
    on conflict (provider, account, window_kind, window_start) do update set quota = excluded.quota
      where b.quota is distinct from excluded.quota;
    valid_s := least(valid_s, date_part('epoch', w.ends - p_now) - guard / 2);
    update market_budgets b set used = b.used + calls,
      used_background = b.used_background + case when p_urgent then 0 else calls end,
      background_tokens = coalesce(tokens[1] - calls, b.background_tokens),
      background_at = case when tokens[1] is null then b.background_at else p_now end
     where b.provider = p.provider and b.account = p.account and b.window_kind = kind and b.window_start = w.starts;
    tokens := tokens[2:];
    receipt := concat_ws(';', receipt, kind || '=' || date_part('epoch', w.starts)::text);
  end loop;
  update market_providers m set next_request_at = market__charge_block.granted_at + make_interval(secs => step_s * calls)
   where m.provider = p.provider and m.account = p.account;
  receipt := concat_ws(';', p.provider, p.account, (not p_urgent)::int, receipt);
end $$;

-- The same now, under the account's row lock; p_lowest and p_highest: the priorities of those who wait for it, which must be
-- of one urgency. urgent, wake_priority: whom the block may serve.
create function market_take_block(p_provider text, p_account text, p_lowest int, p_highest int, p_calls int,
  out calls int, out urgent boolean, out wake_priority int, out granted_at timestamptz, out delay_s double precision,
  out step_s double precision, out hold_s double precision, out valid_s double precision, out receipt text, out cost_window timestamptz)
language plpgsql as $$
declare p market_providers; s market_settings;
begin
  calls := 0;
  select * into s from market_settings;
  wake_priority := s.wake_priority;
  urgent := p_lowest >= s.wake_priority;
  if (urgent = (p_highest >= s.wake_priority)) is not true or coalesce(p_calls, 0) < 2 then
    return;
  end if;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  select c.* into calls, granted_at, delay_s, step_s, hold_s, valid_s, receipt, cost_window
    from market__charge_block(p, s, urgent, p_calls, clock_timestamp()) c;
end $$;

-- Returns the charge of a block's requests that nobody needed. The pace stays as it is: a gap is harmless.
create function market_give_back_block(p_receipt text, p_calls int) returns int
language plpgsql as $$
declare parts text[] := string_to_array(p_receipt, ';'); entry text; given int := greatest(0, p_calls); n int := 0;
begin
  -- The same lock order as market_take: provider first, then its windows.
  perform from market_providers where provider = parts[1] and account = parts[2] for no key update;
  foreach entry in array parts[4:] loop
    update market_budgets set used = greatest(0, used - given),
      used_background = greatest(0, used_background - given * parts[3]::int),
      background_tokens = background_tokens + given * parts[3]::int, given_back = given_back + given
     where provider = parts[1] and account = parts[2] and window_kind = split_part(entry, '=', 1)
       and window_start = to_timestamp(split_part(entry, '=', 2)::double precision);
    n := n + 1;
  end loop;
  return n;
end $$;

do $$
declare f regprocedure;
begin
  for f in select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = current_schema() and p.proname like 'market\_%' loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
