-- Asking for prices: market_enqueue and its kin, and the plain INSERT. An app waits for nothing but another app that is
-- just opening a job for the very same target.

-- One normalised wish. problem not null: refused, and why.
create type market__wish as (
  provider text, account text, sku text, size text, currency text, dedupe_key text, unit_key text,
  priority int, not_before timestamptz, user_id text, problem text
);

create function market__wish(p_provider text, p_sku text, p_size text, p_currency text, p_priority int,
                             p_not_before timestamptz, p_user_id text, p_account text default null)
returns market__wish language plpgsql stable as $$
declare w market__wish; p record; a record; b record; sizes text;
begin
  if p_account is null and p_user_id <> '' then
    select u.account into p_account from market_account_users u where u.provider = p_provider and u.user_id = p_user_id;
  end if;
  select s.default_size_system into sizes from market_settings s;
  -- As nearly all are written; the rest takes the long way, of which each expression costs its preparation in each transaction.
  if p_sku ~ '^[A-Z0-9][A-Z0-9._+-]*$' and length(p_sku) <= 64 and (p_size is null or sizes = 'us' and p_size ~ '^([1-9]|1[0-9]|2[01])([.]5)?$')
     and p_currency is null and p_not_before is null and p_priority between 0 and 1000 and coalesce(length(p_user_id) <= 200, true) then
    select m.provider, m.account, p_sku, p_size, m.currency, format('%s|%s|%s|%s|%s', m.provider, m.account, p_sku, m.currency, p_size),
           format(case when m.all_sizes then '%s|%s|%s|%s' else '%s|%s|%s|%s|%s' end, m.provider, m.account, p_sku, m.currency, p_size),
           p_priority, null, nullif(p_user_id, ''), null into w
      from market_providers m
     where m.provider = p_provider and m.account = coalesce(p_account, 'default');
    if found then
      return w;
    end if;
  end if;
  w.priority := coalesce(p_priority, 100);
  w.not_before := p_not_before;
  w.user_id := nullif(p_user_id, '');
  w.provider := market__lower(btrim(coalesce(p_provider, '')));
  w.account := p_account;
  if w.account is null and w.user_id is not null then
    select u.account into w.account from market_account_users u where u.provider = w.provider and u.user_id = w.user_id;
  end if;
  w.account := coalesce(w.account, 'default');
  select m.currency, m.currencies, m.all_sizes into p from market_providers m where m.provider = w.provider and m.account = w.account;
  if not found then
    w.problem := case when exists (select from market_providers m where m.provider = w.provider)
      then format('account %s is not an account of %s', quote_literal(left(w.account, 40)), w.provider)
      else format('provider %s is unknown (known: %s)', quote_literal(left(coalesce(p_provider, ''), 40)),
                  (select string_agg(distinct m.provider, ', ' order by m.provider) from market_providers m)) end;
    return w;
  end if;
  a := market__sku(p_sku);
  b := market__size(p_size, sizes);
  w.sku := a.sku;
  w.size := b.size;
  w.currency := market__upper(btrim(coalesce(p_currency, p.currency)));
  -- Branches, not one expression: what is never reached costs nothing.
  if a.problem is not null then
    w.problem := a.problem;
  elsif b.problem is not null then
    w.problem := b.problem;
  elsif w.priority not between 0 and 1000 then
    w.problem := format('priority %s is not between 0 and 1000', w.priority);
  elsif w.currency !~ '^[A-Z]{3}$' then
    w.problem := format('currency %s is not a three-letter code', quote_literal(left(p_currency, 40)));
  elsif p.currencies <> '{}' and w.currency <> all (p.currencies) then
    w.problem := format('currency %s is not offered by %s (it has %s)', w.currency, w.provider, array_to_string(p.currencies, ' '));
  elsif length(w.user_id) > 200 then
    w.problem := 'user_id is longer than 200 characters';
  elsif not isfinite(w.not_before) then
    w.problem := 'not_before is not a time';
  -- Postgres knows years that apps' languages do not: whoever reads such a row there would fail.
  elsif w.not_before not between timestamptz '0001-01-02 00:00 UTC' and timestamptz '9999-12-30 00:00 UTC' then
    w.problem := 'not_before is not between the years 1 and 9999';
  else   -- what is refused has no key, or it would pass for the item of the same key without a size
    w.unit_key := concat_ws('|', w.provider, w.account, w.sku, w.currency, case when not p.all_sizes then coalesce(w.size, '') end);
    w.dedupe_key := concat_ws('|', w.provider, w.account, w.sku, w.currency, coalesce(w.size, ''));
  end if;
  return w;
end $$;

-- When the price that answers a target was asked for at the provider; null: never.
create function market__observed_at(p_provider text, p_account text, p_sku text, p_size text, p_currency text, p_dedupe_key text)
returns timestamptz language plpgsql stable as $$
declare seen timestamptz;
begin
  select greatest(t.observed_at, p.observed_at) into seen
    from (select) one
    left join market_targets t on t.dedupe_key = p_dedupe_key
    left join market_prices p on p.provider = p_provider and p.account = p_account and p.sku = p_sku
      and coalesce(p.size, '') = coalesce(t.price_size, p_size, '') and p.currency = p_currency;
  return seen;
end $$;

-- Start tag of start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996), with a job as the unit of service: a user's
-- jobs stand one turn apart, and who comes new starts at the head's turn. Ordering by it is round-robin by user.
create function market__turn(p_provider text, p_account text, p_priority int, p_user_id text) returns bigint
language plpgsql stable as $$
declare own bigint; ranked boolean;
begin
  select j.turn + 1, j.rank <> 0 into own, ranked from market_jobs j
   where hashtextextended(j.provider || '|' || j.account || '|' || coalesce(j.user_id, ''), j.priority)
           = hashtextextended(p_provider || '|' || p_account || '|' || coalesce(p_user_id, ''), p_priority)
     and j.status = 'pending'
   order by j.turn desc limit 1;
  if found and not ranked then
    return own;   -- the head is his own, or before him
  end if;
  return greatest(0, own, (select j.turn from market_jobs j
    where j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.priority = p_priority and j.rank = 0
    order by j.turn limit 1));
end $$;

-- Adds a wish to an open job. null: the job is not open any more. A wish that changes nothing of a waiting job takes no lock, or
-- whoever idles in a transaction after it would keep all others' from it: it was made before the job is claimed, so what is fetched
-- then is its answer. (At higher isolation the job may have ended long ago.) A row that somebody else holds at this moment is left
-- alone: the request stays unfolded until the daemon's next poll folds it in; an urgent one has it come. So it is with a running
-- job: its settle reads the requests that it sees, and one that it does not see, or whose worker dies, is folded in afterwards.
create function market__merge(w market__wish, p_job_id bigint) returns text
language plpgsql as $$
declare j market_jobs; asked_at timestamptz := clock_timestamp(); known boolean; held boolean := false;
begin
  select * into j from market_jobs where id = p_job_id and status in ('pending', 'running', 'deferred');
  if not found then
    return null;
  end if;
  known := w.priority <= j.priority and current_setting('transaction_isolation') = 'read committed'
    and case j.status when 'pending' then true when 'running' then false
                      else coalesce(j.retry_at >= j.run_at, false) and w.priority < (select s.wake_priority from market_settings s) end;
  if j.status <> 'running' and not known then
    select * into j from market_jobs where id = p_job_id and status in ('pending', 'deferred') for update skip locked;
    held := found;
    if not held then
      select * into j from market_jobs where id = p_job_id and status in ('pending', 'running', 'deferred');
      if not found then
        return null;
      end if;
    end if;
  end if;
  insert into market_job_requests (job_id, user_id, priority, not_before, requested_at, raised, folded, loose)
  values (p_job_id, w.user_id, w.priority, w.not_before, asked_at, held and w.priority > j.priority, known or held, not (known or held));
  if held then
    return market__fold_into(j, w.priority, w.not_before);
  elsif not known and j.status <> 'running' and w.priority >= (select s.wake_priority from market_settings s) then
    perform pg_notify('market_jobs', '');
  end if;
  return 'merged';
end $$;

-- What a wish changes of a waiting job whose row the caller holds: the greater priority, the earlier time.
create function market__fold_into(j market_jobs, p_priority int, p_not_before timestamptz) returns text
language plpgsql as $$
declare s market_settings; now_at timestamptz := clock_timestamp(); looks_past boolean; due timestamptz;
begin
  select * into s from market_settings;
  -- Only an urgent wish looks past a backoff, and at most once in fresh_for.
  looks_past := p_priority >= s.wake_priority and j.retry_at > now_at
    and (j.overridden_at is null or j.overridden_at < now_at - s.fresh_for);
  due := greatest(least(coalesce(j.not_before, now_at), coalesce(p_not_before, now_at)), case when not looks_past then j.retry_at end);
  if p_priority <= j.priority and due >= j.run_at then
    return 'merged';
  end if;
  due := case when due <= now_at then least(j.run_at, now_at) else due end;
  update market_jobs m set
    priority = greatest(m.priority, p_priority),
    rank = case when p_priority < s.wake_priority then m.rank else 0 end,   -- the plan's word is for background only
    not_before = case when m.not_before is not null then least(m.not_before, coalesce(p_not_before, now_at)) end,
    retry_at = case when looks_past then null else m.retry_at end,
    overridden_at = case when looks_past then now_at else m.overridden_at end,
    run_at = due,
    status = case when due <= now_at then 'pending' else 'deferred' end,
    turn = case when p_priority > m.priority or m.status = 'deferred'
                then market__turn(m.provider, m.account, greatest(m.priority, p_priority), m.user_id) else m.turn end,
    updated_at = now_at
  where m.id = j.id;
  if due <= now_at and (j.status = 'deferred' or j.priority < s.wake_priority and p_priority >= s.wake_priority) then
    perform pg_notify('market_jobs', j.provider);
  end if;
  return case when p_priority > j.priority then 'raised' else 'merged' end;
end $$;

-- Folds in the requests that met a row in somebody's hands, those of a job together; what is held, or runs, still is left for
-- the next time. It counts for nothing in the limit, or one who holds many would keep all others waiting.
create function market_fold_requests() returns int
language plpgsql as $$
declare met bigint; j market_jobs; r record; n int := 0;
begin
  for met in select distinct q.job_id from market_job_requests q where not q.folded order by q.job_id loop
    select * into j from market_jobs where id = met and status <> 'running' for update skip locked;
    continue when not found and exists (select from market_jobs m where m.id = met);
    with folded as (
      update market_job_requests q set folded = true
       where q.request_id in (select x.request_id from market_job_requests x where x.job_id = met and not x.folded for update skip locked)
      returning q.priority, q.not_before
    )
    select count(*) as requests, max(f.priority) as priority, min(coalesce(f.not_before, clock_timestamp())) as not_before into r
      from folded f;
    if r.requests > 0 and j.status in ('pending', 'deferred') then   -- another daemon may have been quicker
      perform market__fold_into(j, r.priority, r.not_before);
    end if;
    n := n + r.requests;
    exit when n >= 500;
  end loop;
  return n;
end $$;

-- Takes a target's place among the open jobs until the transaction ends, so that nobody else opens one: a row that is gone
-- at once, but whose entry in the unique index holds up whoever comes with the same key. At higher isolation a second one
-- gets 40001, never a unique violation. false: an open job is there.
create function market__hold(w market__wish) returns boolean
language plpgsql as $$
declare stub bigint;
begin
  insert into market_jobs (provider, account, sku, size, currency, status, run_at, dedupe_key, unit_key)
  values (w.provider, w.account, w.sku, w.size, w.currency, 'deferred', 'infinity', w.dedupe_key, w.unit_key)
  on conflict (dedupe_key) where status in ('pending', 'running', 'deferred') do nothing returning id into stub;
  delete from market_jobs where id = stub;
  return stub is not null;
end $$;

-- A view counts once per user, target and ten minutes: as market__count_views has it for many, but with a plan that is kept.
create function market__count_view(w market__wish) returns void
language plpgsql as $$
begin
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
  select 'view', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, '')
   where not exists (select from market_signals g where g.kind = 'view' and g.dedupe_key = w.dedupe_key
                       and g.user_id = coalesce(w.user_id, '') and g.at > clock_timestamp() - interval '10 minutes');
end $$;

create type market__opened as (
  job_id bigint, result text, status text, run_at timestamptz, retry_at timestamptz, overridden_at timestamptz,
  max_attempts int, turn bigint, urgent boolean, known boolean
);

-- One wish: merged into an open job, answered by a fresh price, or a new job. Statements that find one row by its key each: to
-- join them, or to write from one in another, costs more than it saves.
-- p_is_view: asking in the background is what old apps do when they show a price; it counts as a view.
-- p_insert false: the caller writes the new rows (result null), unless it finds that somebody was quicker; then it asks again.
create function market__open(w market__wish, p_is_view boolean default true, p_insert boolean default true) returns market__opened
language plpgsql as $$
declare o market__opened; now_at timestamptz := clock_timestamp(); fresh_for interval; is_view boolean; t record; priced timestamptz;
begin
  select s.fresh_for, s.max_attempts, w.priority >= s.wake_priority, p_is_view and w.priority < s.wake_priority
    into fresh_for, o.max_attempts, o.urgent, is_view from market_settings s;
  loop
    -- The open job first, then the price: what it brings when it ends in between is seen.
    select j.id into o.job_id from market_jobs j where j.dedupe_key = w.dedupe_key and j.status in ('pending', 'running', 'deferred');
    if found then
      o.result := market__merge(w, o.job_id);
      exit when o.result is not null;
      continue;   -- it has ended meanwhile
    end if;
    select x.observed_at, x.price_size, x.retry_at, x.overridden_at into t from market_targets x where x.dedupe_key = w.dedupe_key;
    o.known := found;
    -- as market__observed_at has it
    select p.observed_at into priced from market_prices p
     where p.provider = w.provider and p.account = w.account and p.sku = w.sku
       and coalesce(p.size, '') = coalesce(t.price_size, w.size, '') and p.currency = w.currency;
    if greatest(t.observed_at, priced) > now_at - fresh_for then
      o.result := 'fresh';
      if not o.known then   -- a mate's fetch brought the price; from now on the item is one that was asked for
        insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
        values (w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key) on conflict do nothing;
      end if;
      exit;
    end if;
    -- Not before its own time, nor before the target's cool-down ends, which only an urgent wish looks past, and at most once
    -- in fresh_for.
    if t.retry_at > now_at then
      if o.urgent and (t.overridden_at is null or t.overridden_at < now_at - fresh_for) then
        o.overridden_at := now_at;
      else
        o.retry_at := t.retry_at;
        o.overridden_at := t.overridden_at;   -- or the next wish that meets the job would look past it again
      end if;
    end if;
    o.run_at := greatest(w.not_before, o.retry_at, now_at);
    o.status := case when o.run_at > now_at then 'deferred' else 'pending' end;
    o.turn := market__turn(w.provider, w.account, w.priority, w.user_id);
    exit when not p_insert;
    -- The job comes before its target, as in all other ways of asking, so that who asks for the same waits in a line.
    insert into market_jobs (provider, account, sku, size, currency, priority, status, not_before, retry_at, run_at,
      overridden_at, max_attempts, turn, user_id, dedupe_key, unit_key)
    values (w.provider, w.account, w.sku, w.size, w.currency, w.priority, o.status, w.not_before, o.retry_at, o.run_at,
      o.overridden_at, o.max_attempts, o.turn, w.user_id, w.dedupe_key, w.unit_key)
    on conflict (dedupe_key) where status in ('pending', 'running', 'deferred') do nothing returning id into o.job_id;
    if not found then   -- somebody opened one for the same target meanwhile
      o.retry_at := null;
      o.overridden_at := null;
      continue;
    end if;
    if not o.known then
      insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
      values (w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key) on conflict do nothing;
    end if;
    insert into market_job_requests (job_id, user_id, priority, opened) values (o.job_id, w.user_id, w.priority, true);
    o.result := 'queued';
    if o.urgent and o.status = 'pending' then
      perform pg_notify('market_jobs', w.provider);
    end if;
    exit;
  end loop;
  -- Nobody looks at what was never asked; if somebody did, market__fold counts both as one.
  if is_view and o.result = 'queued' and not o.known then
    insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
    values ('view', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, ''));
  elsif is_view then
    perform market__count_view(w);
  end if;
  return o;
end $$;

create function market_enqueue(provider text, sku text, size text default null, priority int default 100,
  user_id text default null, not_before timestamptz default null, currency text default null)
returns table (job_id bigint, result text, wait_reason text, eta timestamptz)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_generic_plan   -- one plan fits all values, and a fresh session plans each statement once
set enable_seqscan = off set jit = off as $$             -- planned while small it would walk big tables; before 18 that costs 1e10, which starts the JIT compiler
declare w market__wish; o market__opened;
begin
  w := market__wish(market_enqueue.provider, market_enqueue.sku, market_enqueue.size, market_enqueue.currency,
                    market_enqueue.priority, market_enqueue.not_before, market__identity(market_enqueue.user_id, current_user));
  if w.problem is not null then
    raise exception 'market_enqueue: %', w.problem using errcode = '22023';
  end if;
  o := market__open(w);
  job_id := o.job_id;
  result := o.result;
  if o.status = 'deferred' then
    wait_reason := case when o.retry_at >= o.run_at then 'cooldown' else 'not_before' end;
    eta := o.run_at;
  elsif o.status = 'pending' and not exists (select from market_daemons d where d.alive_until > clock_timestamp()) then
    wait_reason := 'no_daemon';   -- as market__wait has it, which reads much more
  else
    select x.waiting_for, x.eta into wait_reason, eta from market__wait(o.job_id, null) x;
  end if;
  return next;
end $$;

-- One item of many on its way. result null: it meets an open job, or is a repeat of an item before it.
create type market__taken as (
  ord int, w market__wish, id bigint, result text, status text, run_at timestamptz, cooling boolean, turn bigint
);

-- The items of which nothing is known yet, together: all that they need is read and written by sets, new jobs in key order.
-- Raises a unique violation when somebody opens one of these jobs at the same moment.
create function market__open_new(items jsonb, p_priority int, p_user_id text, p_now timestamptz) returns market__taken[]
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off set work_mem = '64MB' as $$
declare s market_settings; asked market__taken[];
  ids regclass := pg_get_serial_sequence('market_jobs', 'id');   -- its usual name may have been taken
begin
  select * into s from market_settings;
  -- One stream of rows from CTE to CTE, never two joined: knowing nothing of their size the planner would compare each with each.
  with wished as materialized (
    select q.ord, q.wish as w, (q.wish).provider, (q.wish).account, (q.wish).priority, (q.wish).dedupe_key, (q.wish).problem is not null as bad,
           row_number() over (partition by (q.wish).dedupe_key order by q.ord) as nth,
           -- numbers to sort by, for texts that begin alike take long
           row_number() over (order by (q.wish).dedupe_key, q.ord) as key_order,
           hashtextextended((q.wish).provider || '|' || (q.wish).account, (q.wish).priority) as queue
      from market__wishes(items, p_priority, p_user_id) q
  ), met as materialized (
    select i.*, o.id is not null as open, t.known, t.retry_at, t.overridden_at, v.viewed,
           coalesce(greatest(t.observed_at, r.observed_at) > p_now - s.fresh_for, false) as fresh
      from wished i
      left join lateral (select j.id from market_jobs j
                          where j.dedupe_key = i.dedupe_key and j.status in ('pending', 'running', 'deferred') limit 1) o on i.nth = 1 and not i.bad
      left join lateral (select true as known, x.retry_at, x.overridden_at, x.price_size, x.observed_at
                           from market_targets x where x.dedupe_key = i.dedupe_key limit 1) t on i.nth = 1 and not i.bad
      left join lateral (select p.observed_at from market_prices p
                          where p.provider = i.provider and p.account = i.account and p.sku = (i.w).sku
                            and coalesce(p.size, '') = coalesce(t.price_size, (i.w).size, '') and p.currency = (i.w).currency limit 1) r on i.nth = 1 and not i.bad
      -- one view per user, target and ten minutes
      left join lateral (select true as viewed from market_signals g
                          where g.kind = 'view' and g.dedupe_key = i.dedupe_key and g.user_id = coalesce(p_user_id, '')
                            and g.at > p_now - interval '10 minutes' limit 1) v on i.nth = 1 and not i.bad and i.priority < s.wake_priority
  ), due as materialized (
    select m.*, not m.bad and m.nth = 1 and not m.open and not m.fresh as new,
           case when m.retry_at > p_now and m.priority >= s.wake_priority and (m.overridden_at is null or m.overridden_at < p_now - s.fresh_for)
                then p_now end as looks_past
      from met m
  ), placed as (
    select d.*, row_number() over (partition by d.queue order by d.ord) as place from due d where d.new
  ), new as materialized (
    select d.*, nextval(ids) as id,
           greatest((d.w).not_before, case when d.looks_past is null then d.retry_at end, p_now) as run_at,
           -- the first place is looked up once for all of a queue
           max(case when d.place = 1 then market__turn(d.provider, d.account, d.priority, p_user_id) end)
             over (partition by d.queue) + d.place - 1 as turn
      from placed d order by d.key_order
  ), targets as (
    insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
    -- what is fresh without ever having been asked for, too: a mate's fetch brought its price
    select d.provider, d.account, (d.w).sku, (d.w).size, (d.w).currency, d.dedupe_key, (d.w).unit_key
      from due d where d.known is null and d.nth = 1 and not d.bad and not d.open order by d.key_order
  ), jobs as (
    insert into market_jobs (id, provider, account, sku, size, currency, priority, status, not_before, retry_at, run_at,
      overridden_at, max_attempts, turn, user_id, dedupe_key, unit_key)
    overriding system value
    select n.id, n.provider, n.account, (n.w).sku, (n.w).size, (n.w).currency, n.priority,
           case when n.run_at > p_now then 'deferred' else 'pending' end, (n.w).not_before,
           case when n.looks_past is null and n.retry_at > p_now then n.retry_at end, n.run_at,
           case when n.retry_at > p_now then coalesce(n.looks_past, n.overridden_at) end, s.max_attempts, n.turn, p_user_id, n.dedupe_key, (n.w).unit_key
      from new n
  ), requests as (
    insert into market_job_requests (job_id, user_id, priority, opened) select n.id, p_user_id, n.priority, true from new n
  ), views as (
    insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id, at)
    select 'view', d.provider, d.account, (d.w).sku, (d.w).size, (d.w).currency, d.dedupe_key, (d.w).unit_key, coalesce(p_user_id, ''), p_now
      from due d where d.nth = 1 and not d.bad and d.priority < s.wake_priority and d.viewed is null
  ), woken as (
    select count(pg_notify('market_jobs', u.provider)) as n
      from (select distinct n.provider from new n where n.priority >= s.wake_priority and n.run_at <= p_now) u
  )
  select array_agg(row(x.ord, x.w, x.id, x.result, x.status, x.run_at, x.cooling, x.turn)::market__taken order by x.ord) into asked
    from (
      select n.ord, n.w, n.id, 'queued' as result, case when n.run_at > p_now then 'deferred' else 'pending' end as status,
             n.run_at, n.looks_past is null and n.retry_at >= n.run_at as cooling, n.turn
        from new n
      union all
      select d.ord, d.w, null, case when d.bad then 'refused' when d.fresh and d.nth = 1 and not d.open then 'fresh' end, null, null, null, null
        from due d where not d.new) x
   where (select w.n from woken w) >= 0;   -- a CTE that is not looked at does not run
  return asked;
end $$;

-- Those items that have no result yet, one by one in key order. p_after_new: others hold their keys already, perhaps later ones of
-- that order, so none may be opened now: a unique violation where the job that one met has ended. Their views are counted.
create function market__open_met(p_asked market__taken[], p_after_new boolean) returns market__taken[]
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare i market__taken; o market__opened;
begin
  for i in select a.* from unnest(p_asked) a where a.result is null order by (a.w).dedupe_key, a.ord loop
    o := market__open(i.w, not p_after_new, not p_after_new);
    if o.result is null then
      raise exception 'a job has ended at this moment' using errcode = 'unique_violation';
    end if;
    i.id := o.job_id;
    i.result := o.result;
    p_asked[i.ord] := i;
  end loop;
  return p_asked;
end $$;

-- Items by sets; only what meets something is taken one by one. Where somebody is quicker, all are taken one by one, in key order, too, so
-- that two calls lock targets in the same order. Answers in the items' own order.
create function market_enqueue_many(items jsonb, priority int default 100, user_id text default null)
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
  who text := market__identity(market_enqueue_many.user_id, current_user); now_at timestamptz := clock_timestamp();
  asked market__taken[]; i market__taken; o record; x record; lane market__lane; waits text[]; etas timestamptz[]; rest jsonb;
begin
  perform market__check_items(items, 'market_enqueue_many');
  begin
    asked := market__open_new(items, market_enqueue_many.priority, who, now_at);
    asked := market__open_met(asked, true);
  exception when unique_violation then
    select array_agg(row(q.ord, q.wish, null, case when (q.wish).problem is not null then 'refused' end, null, null, null, null)::market__taken
                     order by q.ord) into asked
      from market__wishes(items, market_enqueue_many.priority, who) q;
    asked := market__open_met(asked, false);
  end;
  for i in select a.* from unnest(asked) a where a.result in ('queued', 'merged', 'raised', 'fresh') and a.status is null loop
    x := market__wait(i.id, lane);
    lane := x.lane;
    waits[i.ord] := x.waiting_for;
    etas[i.ord] := x.eta;
  end loop;
  -- Who of the new ones is among the first is told when; all others stand behind them, which is all that market__wait would say.
  if exists (select from market_daemons d where d.alive_until > now_at) then
    for o in select distinct (a.w).provider, (a.w).account, (a.w).priority from unnest(asked) a where a.status = 'pending' loop
      for i in select a.* from unnest(asked) a
                where a.status = 'pending' and (a.w).provider = o.provider and (a.w).account = o.account and (a.w).priority = o.priority
                order by a.turn limit 202 loop
        x := market__wait(i.id, lane);
        lane := x.lane;
        waits[i.ord] := x.waiting_for;
        etas[i.ord] := x.eta;
      end loop;
      rest := coalesce(rest, '{}') || jsonb_build_object(concat_ws('|', o.provider, o.account, o.priority), coalesce(lane.reason, 'rank'));
    end loop;
  end if;
  return query
    select a.ord, a.id, a.result,
           case when a.status = 'deferred' then case when a.cooling then 'cooldown' else 'not_before' end
                when a.status = 'pending' then coalesce(waits[a.ord], f.waiting_for,
                  rest ->> concat_ws('|', (a.w).provider, (a.w).account, (a.w).priority), 'no_daemon')
                else waits[a.ord] end,
           case when a.status = 'deferred' then a.run_at else coalesce(etas[a.ord], f.eta) end,
           case when a.result = 'refused' then '22023' end, (a.w).problem
      from unnest(asked) a
      left join lateral (select 'running' as waiting_for, now_at as eta from market_fetches m
                          where rest is not null and a.status = 'pending' and waits[a.ord] is null
                            and m.unit_key = (a.w).unit_key and m.lease_expires_at > now_at limit 1) f on true;   -- in the array's order: the items'
end $$;

create function market__check_items(items jsonb, p_caller text) returns void
language plpgsql immutable as $$
begin
  if items is null or jsonb_typeof(items) <> 'array' then
    raise exception '%: items is not a JSON array', p_caller using errcode = '22023';
  elsif jsonb_array_length(items) > 10000 then
    raise exception '%: items holds % entries, 10000 at most', p_caller, jsonb_array_length(items) using errcode = '22023';
  end if;
end $$;

create function market_refresh(items jsonb, user_id text default null)
returns table (ord int, job_id bigint, result text, wait_reason text, eta timestamptz, error_code text, error_message text)
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
  select market__check_items(items, 'market_refresh');      -- so that a refusal names what was called
  select * from market_enqueue_many(items, 200, user_id)
$$;

-- Each item of the array as a wish; what cannot be read becomes its problem, never an error. What is written as nearly all
-- is (a canonical sku and size, no time of its own) is taken as it stands, by sets; the rest one by one.
create function market__wishes(items jsonb, p_priority int, p_user_id text)
returns table (ord int, wish market__wish)
language plpgsql stable as $$
begin
  return query
    with ways as (
      select m.provider, m.account, m.currency, m.all_sizes, m.provider || '|' || m.account || '|' as key
        from market_providers m cross join market_settings s
       where m.account = coalesce((select u.account from market_account_users u where u.provider = m.provider and u.user_id = p_user_id), 'default')
         and s.default_size_system = 'us' and p_priority between 0 and 1000 and coalesce(length(p_user_id) <= 200, true)
    ), read as (
      select e.n::int as ord, e.item, e.item ->> 'provider' as provider, e.item ->> 'sku' as sku, e.item ->> 'size' as size,
             case when jsonb_typeof(e.item) = 'object' then e.item - array['provider', 'sku', 'size'] = '{}' end as short
        from jsonb_array_elements(items) with ordinality e(item, n) offset 0   -- or each use of a text would read the JSON again
    )
    select r.ord, case when w.provider is null then market__item(r.item, p_priority, p_user_id)
      else row(w.provider, w.account, r.sku, r.size, w.currency,
               w.key || r.sku || '|' || w.currency || '|' || coalesce(r.size, ''),
               w.key || r.sku || '|' || w.currency || case when w.all_sizes then '' else '|' || coalesce(r.size, '') end,
               p_priority, null, nullif(p_user_id, ''), null)::market__wish end
      from read r left join ways w
        on w.provider = r.provider and r.short and jsonb_typeof(r.item -> 'sku') = 'string'
           and r.sku ~ '^[A-Z0-9][A-Z0-9._+-]*$' and length(r.sku) <= 64   -- {0,63} in the pattern takes seven times as long
           and coalesce(jsonb_typeof(r.item -> 'size') in ('string', 'number', 'null') and (r.size is null or r.size ~ '^([1-9]|1[0-9]|2[01])([.]5)?$'), true);
end $$;

create function market__item(item jsonb, p_priority int, p_user_id text) returns market__wish
language plpgsql stable as $$
declare w market__wish; bad text; prio int := p_priority; due timestamptz;
begin
  if jsonb_typeof(item) <> 'object' then
    w.problem := 'item is not an object';
    return w;
  end if;
  select string_agg(quote_literal(left(k, 40)), ', ') into bad from jsonb_object_keys(item) k
   where k not in ('provider', 'sku', 'size', 'currency', 'priority', 'not_before', 'user_id');
  bad := 'unknown key ' || bad;
  select coalesce(bad, string_agg(k || ' is not a text', ', ')) into bad
    from unnest(array['provider', 'sku', 'currency', 'not_before']) k where jsonb_typeof(item -> k) not in ('string', 'null');
  -- Rows of an app's own table bring it along. One call asks for one user; to take the item for another's would be silent.
  if bad is null and item ->> 'user_id' is distinct from coalesce(p_user_id, '') and item ->> 'user_id' <> '' then
    bad := format('user_id %s is not that of the call', quote_literal(left(item ->> 'user_id', 40)));
  end if;
  if bad is null and jsonb_typeof(item -> 'size') not in ('string', 'number', 'null') then
    bad := 'size is neither a text nor a number';
  end if;
  if bad is null and jsonb_typeof(item -> 'priority') <> 'null' then
    if item ->> 'priority' ~ '^[0-9]{1,4}([.]0+)?$' then
      prio := (item ->> 'priority')::numeric;
    else
      bad := format('priority %s is not a whole number between 0 and 1000', quote_literal(left(item ->> 'priority', 40)));
    end if;
  end if;
  if bad is null and jsonb_typeof(item -> 'not_before') <> 'null' then
    begin
      due := (item ->> 'not_before')::timestamptz;
    exception when data_exception then   -- the whole class: formats, ranges, time zones and their displacements
      bad := format('not_before %s is not a time', quote_literal(left(item ->> 'not_before', 40)));
    end;
  end if;
  if bad is not null then
    w.problem := bad;
    return w;
  end if;
  return market__wish(item ->> 'provider', item ->> 'sku', item ->> 'size', item ->> 'currency', prio, due, p_user_id);
end $$;

-- May the caller speak for others? The schema's owner, operators, and superusers may; all others only for themselves.
-- A role that was SET (PostgREST) counts, not the login behind it. p_owner spares the look at who owns the schema: functions
-- that run as their owner give their current_user. This and the next name their schema: row security calls them with the
-- caller's search_path, which may lead anywhere.
create function market__trusted(p_owner name default null) returns boolean
language plpgsql stable as $$
declare caller name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  if p_owner is null then
    select pg_get_userbyid(c.relowner) into p_owner from pg_class c where c.oid = 'public.market_jobs'::regclass;
  end if;
  return pg_has_role(caller, p_owner, 'member') or coalesce(pg_has_role(caller, to_regrole('market_operator')::oid, 'member'), false);
end $$;

-- Who asks: the setting marketd.user_id, else the JWT's subject (PostgREST), else the login. A trusted caller may name
-- anybody, or nobody; of others an argument must be what they are.
create function market__identity(p_user_id text default null, p_owner name default null) returns text
language plpgsql stable as $$
declare who text := nullif(current_setting('marketd.user_id', true), '');
begin
  if who is null and current_setting('request.jwt.claims', true) <> '' then
    begin
      who := nullif(current_setting('request.jwt.claims')::jsonb ->> 'sub', '');
    exception when invalid_text_representation or data_exception then
      raise exception 'the setting request.jwt.claims is not JSON' using errcode = '22023';
    end;
  end if;
  if public.market__trusted(p_owner) then
    return coalesce(nullif(p_user_id, ''), who);
  end if;
  if who is null and current_setting('request.jwt.claims', true) <> '' then
    -- The login is the gateway's: all whose tokens name nobody would be one user, and see each other's jobs.
    raise exception 'the JWT has no sub, so nobody knows who asks' using errcode = '42501',
      hint = 'Issue tokens with a sub, or ask as a role that is granted market_operator.';
  end if;
  who := coalesce(who, session_user);
  if p_user_id <> '' and p_user_id <> who then
    raise exception 'user_id % is not yours (%)', quote_literal(left(p_user_id, 40)), quote_literal(left(who, 40))
      using errcode = '42501', hint = 'Leave user_id out, or ask as a role that is granted market_operator.';
  end if;
  return who;
end $$;

-- The plain INSERT of old and simple apps: the same checks, the same merging, the same wake. NOTIFY only for what is urgent:
-- it takes a lock that all notifying commits share; of many rows of one statement Postgres keeps one message. unit_key null marks it; the functions
-- above give one, and producers have no right to write that column.
create function market__plain_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare w market__wish; a market__opened; now_at timestamptz;
begin
  w := market__wish(new.provider, new.sku, new.size, new.currency, new.priority, new.not_before,
                    market__identity(new.user_id, current_user), nullif(new.account, 'default'));
  if w.problem is not null then
    raise exception 'market_jobs: %', w.problem using errcode = '22023';
  end if;
  loop
    a := market__open(w, p_insert => false);
    if a.result in ('merged', 'raised') then
      return null;
    end if;
    exit when a.result = 'fresh' or market__hold(w);
  end loop;
  now_at := clock_timestamp();
  new.provider := w.provider;
  new.account := w.account;
  new.sku := w.sku;
  new.size := w.size;
  new.currency := w.currency;
  new.dedupe_key := w.dedupe_key;
  new.unit_key := w.unit_key;
  new.priority := w.priority;
  new.user_id := w.user_id;
  new.created_at := now_at;
  new.updated_at := now_at;
  new.attempt := 0;
  new.rescues := 0;
  new.suspect_since := null;
  new.rank := 0;
  new.lead := false;
  new.lease_id := null;
  new.lease_expires_at := null;
  new.locked_by := null;
  new.started_at := null;
  new.completed_at := null;
  new.error_code := null;
  new.error_message := null;
  new.outcome := null;
  new.max_attempts := a.max_attempts;
  if a.result = 'fresh' then
    new.status := 'done';
    new.outcome := 'fresh';
    new.run_at := now_at;
    new.completed_at := now_at;
    return new;
  end if;
  if not a.known then
    insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
    values (w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key) on conflict do nothing;
  end if;
  new.run_at := a.run_at;
  new.retry_at := a.retry_at;
  new.overridden_at := a.overridden_at;
  new.status := a.status;
  new.turn := a.turn;
  insert into market_job_requests (job_id, user_id, priority, opened) values (new.id, w.user_id, w.priority, true);
  if a.status = 'pending' and a.urgent then
    perform pg_notify('market_jobs', w.provider);
  end if;
  return new;
end $$;
create trigger plain_insert before insert on market_jobs
  for each row when (new.unit_key is null) execute function market__plain_insert();

-- Failed jobs back to work. One that has an open twin is merged into it, never an error.
create function market_retry(provider text default null, error_code text default null, ids bigint[] default null)
returns bigint
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare j record; w market__wish; n bigint := 0; s market_settings; woken text[] := '{}'; held boolean;
begin
  if market_retry.provider is not null
     and not exists (select from market_providers p where p.provider = market_retry.provider) then
    raise exception 'market_retry: provider % is unknown', quote_literal(left(market_retry.provider, 40)) using errcode = '22023';
  end if;
  select * into s from market_settings;
  for j in
    select m.* from market_jobs m
     where m.status = 'failed'
       and (market_retry.provider is null or m.provider = market_retry.provider)
       and (market_retry.error_code is null or m.error_code = market_retry.error_code)
       and (market_retry.ids is null or m.id = any (market_retry.ids))
       -- only the latest of a target: older failures were answered by what came after
       and not exists (select from market_jobs later where later.dedupe_key = m.dedupe_key and later.id > m.id
                         and later.status in ('done', 'failed'))
     order by m.dedupe_key
  loop
    w := (j.provider, j.account, j.sku, j.size, j.currency, j.dedupe_key, j.unit_key, j.priority, null, j.user_id, null);
    loop
      -- The open twin first: to take its key would wait for whoever is just changing its row.
      held := false;
      exit when (select market__merge(w, o.id) from market_jobs o
                  where o.dedupe_key = w.dedupe_key and o.status in ('pending', 'running', 'deferred')) is not null;
      held := market__hold(w);
      exit when held;
    end loop;
    if not held then
      n := n + 1;
    else
      update market_jobs m set status = 'pending', attempt = 0, rescues = 0, suspect_since = null, not_before = null, retry_at = null,
        run_at = clock_timestamp(), completed_at = null, outcome = null, error_code = null, error_message = null,
        turn = market__turn(m.provider, m.account, m.priority, m.user_id), updated_at = clock_timestamp()
       where m.id = j.id and m.status = 'failed';
      if found then
        n := n + 1;
        woken := woken || j.provider::text;
      end if;
    end if;
  end loop;
  perform pg_notify('market_jobs', x) from (select distinct unnest(woken) x) y;
  return n;
end $$;

-- Finished jobs back to work whose price does not serve a request that was committed only after they had ended. Without
-- this an app that asked inside a long transaction would be forgotten. Waits for no app: what is held now is taken up
-- the next time.
create function market_reopen() returns setof bigint
language plpgsql set lock_timeout = '20ms' as $$
declare late record; s market_settings;
begin
  select * into s from market_settings;
  for late in
    select j.id, j.provider, j.account, j.sku, j.size, j.currency, j.dedupe_key, j.unit_key, max(r.priority) as priority
      from market_job_requests r join market_jobs j on j.id = r.job_id
     where r.loose and not r.served and j.status in ('done', 'failed')
       and coalesce(market__observed_at(j.provider, j.account, j.sku, j.size, j.currency, j.dedupe_key), '-infinity')
           < r.requested_at - s.fresh_for
       and (j.status = 'done' or j.completed_at < r.requested_at)
     group by j.id order by j.dedupe_key, j.id desc
     limit 100
  loop
    begin
      if market__hold((late.provider, late.account, late.sku, late.size, late.currency, late.dedupe_key, late.unit_key,
                       late.priority, null, null, null)) then
        update market_jobs j set status = 'pending', attempt = 0, rescues = 0, suspect_since = null, outcome = null, error_code = null,
          error_message = null, completed_at = null, not_before = null, retry_at = null, run_at = clock_timestamp(),
          priority = greatest(j.priority, late.priority),
          turn = market__turn(j.provider, j.account, greatest(j.priority, late.priority), j.user_id), updated_at = clock_timestamp()
         where j.id = late.id and j.status in ('done', 'failed');
        return next late.id;
      else
        -- The open twin was opened later than this one ended: its price will serve.
        update market_job_requests r set served = true where r.job_id = late.id and r.loose and not r.served;
      end if;
    exception when lock_not_available then
      continue;   -- an app is just opening one, or holds the row of this one: the next sweep has it
    end;
  end loop;
  update market_job_requests r set served = true
    from market_jobs j
   where r.job_id = j.id and j.status in ('done', 'failed') and r.loose and not r.served
     and (j.status = 'failed' and j.completed_at >= r.requested_at
          or market__observed_at(j.provider, j.account, j.sku, j.size, j.currency, j.dedupe_key) >= r.requested_at - s.fresh_for);
exception when lock_not_available then
  return;   -- somebody holds a request's row
end $$;

create function market_run_now() returns text
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare n int := (select count(*) from market_daemons where alive_until > clock_timestamp());
begin
  -- Whose wish is not committed yet keeps nobody's: this one is heard all the same.
  update market_run_wish set asked_at = clock_timestamp()
   where only_row in (select w.only_row from market_run_wish w for update skip locked);
  perform pg_notify('market_jobs', 'run');
  return format('%s live daemon%s asked to run now', n, case when n = 1 then '' else 's' end);
end $$;

create function market_pause(provider text, reason text default null)
returns table (account text, state text)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if not exists (select from market_providers p where p.provider = market_pause.provider) then
    raise exception 'market_pause: provider % is unknown', quote_literal(left(coalesce(market_pause.provider, ''), 40)) using errcode = '22023';
  end if;
  return query
    update market_providers p set paused_at = clock_timestamp(), paused_reason = left(coalesce(reason, 'no reason given'), 300)
     where p.provider = market_pause.provider returning p.account, 'paused'::text;
end $$;

-- Ends a pause, a cool-down and an open circuit: the operator knows better. Answers the accounts that were held.
create function market_resume(provider text)
returns table (account text, state text)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if not exists (select from market_providers p where p.provider = market_resume.provider) then
    raise exception 'market_resume: provider % is unknown', quote_literal(left(coalesce(market_resume.provider, ''), 40)) using errcode = '22023';
  end if;
  return query
    update market_providers p set paused_at = null, paused_reason = null, circuit = 'closed', circuit_reason = null,
      circuit_until = null, circuit_detail = null, circuit_day_spent = false, circuit_failures = 0, circuit_opens = 0
     where p.provider = market_resume.provider
       and (p.paused_at is not null or p.circuit <> 'closed' or p.circuit_failures > 0 or p.circuit_opens > 0 or p.circuit_day_spent)
    returning p.account, case when p.enabled then 'ready' else 'off' end;
  perform pg_notify('market_jobs', market_resume.provider);
end $$;

-- One step of market_enrich: of at most p_looks skus after p_after, in their order, those that lack an image are looked for, at most
-- p_limit of them. Where it ended, for the next step; null: that was the last sku. A job that an app is just opening is not waited for.
create function market__enrich(p_provider text, p_limit int, p_after text, p_looks int default 2000, out queued int, out after text)
language plpgsql set lock_timeout = '20ms' set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare skus text[]; k record; w market__wish; o market__opened; wishes market__wish[] := '{}';
begin
  queued := 0;
  skus := array(select distinct s.sku from market_skus s where s.sku > p_after order by s.sku limit p_looks);
  after := case when cardinality(skus) = p_looks then skus[p_looks] end;
  for k in
    select c.sku, p.provider, p.all_sizes,
           -- one in another system may fit two variants
           (select t.size from market_targets t where t.sku = c.sku and t.size is not null
             order by t.size ~ '^(UK|EU) ', t.created_at, t.dedupe_key limit 1) as size
      from unnest(skus) with ordinality c(sku, n)
      cross join lateral (
        select m.provider, m.all_sizes from market_providers m
         where m.account = 'default' and m.enabled and m.images and (p_provider is null or m.provider = p_provider)
           -- not where it was looked for in vain
           and not exists (select from market_targets t where t.provider = m.provider and t.sku = c.sku
                            and (t.retry_at > clock_timestamp() or t.last_attempt_at > clock_timestamp() - interval '1 day'))
         order by m.all_sizes desc, m.provider limit 1) p
     where c.sku !~ '^id:'
       and not exists (select from market_skus x join market_products d using (provider, product_id)
                        where x.sku = c.sku and d.image_url is not null)
       -- One that is on its way may bring it: the next provider is for when it did not.
       and not exists (select from market_providers m join market_targets t on t.provider = m.provider and t.sku = c.sku
                         join market_jobs j on j.dedupe_key = t.dedupe_key and j.status in ('pending', 'running', 'deferred')
                        where m.account = 'default' and m.enabled and m.images)
     order by c.n
  loop
    -- Where one call returns all sizes none is named; else any known size will do.
    continue when not k.all_sizes and k.size is null and k.sku !~ '^name:';
    w := market__wish(k.provider, k.sku, case when not k.all_sizes then k.size end, null, 50, null, null);
    continue when w.problem is not null;
    wishes := wishes || w;
    if cardinality(wishes) >= p_limit then
      after := k.sku;
      exit;
    end if;
  end loop;
  foreach w in array array(select x from unnest(wishes) x order by x.dedupe_key) loop   -- in one order everywhere
    begin
      o := market__open(w);
      queued := queued + (o.result = 'queued')::int;
    exception when lock_not_available then
      continue;   -- the next look has it
    end;
  end loop;
end $$;

-- Queues fetches that bring name and image for products that lack an image, at a provider that tells images, within the
-- background's share. Returns for how many. p_limit keeps one call from queuing a whole catalog.
create function market_enrich(provider text default null, p_limit int default 50) returns int
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare n int := 0; step record; place text := ''; most constant int := least(greatest(p_limit, 0), 1000);
begin
  if market_enrich.provider is not null
     and not exists (select from market_providers p where p.provider = market_enrich.provider) then
    raise exception 'market_enrich: provider % is unknown', quote_literal(left(market_enrich.provider, 40)) using errcode = '22023';
  end if;
  while place is not null and n < most loop
    step := market__enrich(market_enrich.provider, most - n, place);
    n := n + step.queued;
    place := step.after;
  end loop;
  return n;
end $$;
