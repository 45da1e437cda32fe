-- Roles with no more rights than their work needs; applied by `marketd migrate --roles`, after every upgrade again.
-- They cannot log in: grant them to the logins of your apps and daemons, for example
--   create role shop login password '...'; grant market_producer, market_reader to shop;
--
--   market_producer  asks, watches, tells views; of jobs and requests it sees only its own (row security)
--   market_reader    prices, catalogue, history, and the status views that name no user
--   market_operator  both of these for anybody, and: pause, resume, retry, run now, plan, all rows
--   market_daemon    what `marketd run` reads and writes; it owns nothing and cannot change the schema

do $$
declare role text;
begin
  perform pg_advisory_xact_lock(hashtext('marketd.roles'));
  -- Roles belong to the whole server, not to one database. Where they are there, whoever owns the schema may go on
  -- without the right to make any (CREATEROLE).
  foreach role in array array['market_producer', 'market_reader', 'market_operator', 'market_daemon'] loop
    continue when to_regrole(role) is not null;
    begin
      execute format('create role %I nologin', role);
    exception when duplicate_object or unique_violation then
      raise notice 'role % is there already', role;   -- made for another database a moment ago
    end;
  end loop;
  foreach role in array array['market_producer', 'market_reader'] loop
    if not pg_has_role('market_operator', role, 'member') then
      execute format('grant %I to market_operator', role);
    end if;
  end loop;
end $$;

-- Nobody has anything but what follows. Postgres 14 lets everybody create objects in public, among them functions
-- that ours would then prefer to their own; later versions do not.
revoke create on schema public from public;
do $$
declare what text; grantees constant text := 'public, market_producer, market_reader, market_operator, market_daemon';
begin
  for what in select format('%s %s', case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::regprocedure)
                from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname like 'market\_%' loop
    execute format('revoke all on %s from %s', what, grantees);
  end loop;
  for what in select c.oid::regclass from pg_class c
               where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
                 and (c.relname like 'market\_%' or c.relname = 'stockx_market_prices') loop
    execute format('revoke all on %s from %s', what, grantees);
  end loop;
end $$;
grant usage on schema public to market_producer, market_reader, market_operator, market_daemon;

-- ------------------------------------------------------------------------------------------------- market_producer

grant execute on function
  market_enqueue(text, text, text, int, text, timestamptz, text), market_enqueue_many(jsonb, int, text),
  market_refresh(jsonb, text), market_watch(jsonb, text), market_unwatch(jsonb, text), market_viewed(jsonb, text),
  market_why(bigint), market_why(text, text, text, text),
  market__identity(text, name), market__trusted(name)
  to market_producer;
-- The plain INSERT. Not: account (whose budget it would spend), unit_key (which marks rows that were checked already).
grant insert (provider, sku, size, currency, priority, status, not_before, user_id, dedupe_key, attempt, max_attempts,
              created_at, updated_at)
  on market_jobs to market_producer;
grant select on market_jobs, market_job_requests to market_producer;

-- --------------------------------------------------------------------------------------------------- market_reader

grant select on
  market_prices, market_price_history, market_products, market_skus, market_variants,
  market_price_status, market_catalog, market_queue_status, market_budget_status, market_freshness,
  stockx_market_prices
  to market_reader;
grant execute on function market_why(text, text, text, text) to market_reader;
-- What the views compute with; none of these writes.
grant execute on function
  market__lane_state(market_providers),
  market__shown_quota(market_providers, text),
  market__shown_shares(market_providers, market_settings, text),
  market__shown_verdict(market_providers, market_settings, boolean),
  market__still(double precision, double precision, double precision),
  market__due_at(double precision, double precision, double precision, double precision, timestamptz, double precision, timestamptz),
  market__image_key(text)
  to market_reader;

-- ------------------------------------------------------------------------------------------------- market_operator

grant execute on function
  market_retry(text, text, bigint[]), market_pause(text, text), market_resume(text), market_run_now(),
  market_enrich(text, int), market_plan(text, int)
  to market_operator;
do $$
declare what text;
begin
  for what in select c.oid::regclass from pg_class c
               where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
                 and (c.relname like 'market\_%' or c.relname = 'stockx_market_prices') loop
    execute format('grant select on %s to market_operator, market_daemon', what);
  end loop;
end $$;

-- --------------------------------------------------------------------------------------------------- market_daemon

grant insert, update, delete on
  market_jobs, market_job_requests, market_fetches, market_targets,
  market_prices, market_price_history, market_products, market_skus, market_variants,
  market_providers, market_account_users, market_daemons, market_budgets, market_grants, market_requests,
  market_job_runs, market_provider_metrics, market_signals, market_units, market_rates, market_plans, market_watches
  to market_daemon;
grant update on market_settings, market_planner to market_daemon;
do $$
declare what text;
begin
  for what in select format('%s %s', case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::regprocedure)
                from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname like 'market\_%' loop
    execute format('grant execute on %s to market_daemon', what);
  end loop;
end $$;

-- ---------------------------------------------------------------------------------------------------- row security

-- Who asked is in market_job_requests; a job's own column is what RETURNING of a plain INSERT can see already.
alter table market_jobs enable row level security;
alter table market_job_requests enable row level security;

drop policy if exists daemon on market_jobs;
create policy daemon on market_jobs to market_daemon using (true) with check (true);
drop policy if exists operator on market_jobs;
create policy operator on market_jobs for select to market_operator using (true);
drop policy if exists own on market_jobs;
create policy own on market_jobs for select to market_producer using (
  user_id = (select market__identity())
  or exists (select from market_job_requests r where r.job_id = market_jobs.id and r.user_id = (select market__identity())));
drop policy if exists ask on market_jobs;
create policy ask on market_jobs for insert to market_producer with check (true);   -- a trigger checks, and signs

drop policy if exists daemon on market_job_requests;
create policy daemon on market_job_requests to market_daemon using (true) with check (true);
drop policy if exists operator on market_job_requests;
create policy operator on market_job_requests for select to market_operator using (true);
drop policy if exists own on market_job_requests;
create policy own on market_job_requests for select to market_producer using (user_id = (select market__identity()));
