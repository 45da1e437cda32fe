-- For Supabase (and any PostgREST): what its three API roles may do. After `marketd migrate --roles`, and after every
-- upgrade again:  psql "$MARKETD_DSN" -v ON_ERROR_STOP=1 -f sql/supabase.sql
--
--   anon           nothing
--   authenticated  what market_producer and market_reader may: asks as the user of his JWT (`sub`), sees his own jobs
--   service_role   what market_operator may: your own server, which may ask for anybody
--
-- Supabase grants all rights on every new table and function of `public` to all three, so they are taken away first.
-- Its roles do not inherit, so each right is given to them by name.

set search_path = public;
set standard_conforming_strings = on;
set lock_timeout = '5s';   -- apps queue up behind whoever waits for a table; after an error run it again

do $$
declare what text; role text; given record;
begin
  foreach role in array array['anon', 'authenticated', 'service_role'] loop
    if to_regrole(role) is null then
      raise exception 'there is no role %: this file is for Supabase', role;
    end if;
  end loop;
  for what in
    select format('%s %s', case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::regprocedure)
      from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname like 'market\_%'
    union all
    select format('table %s', c.oid::regclass) from pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
       and (c.relname like 'market\_%' or c.relname = 'stockx_market_prices')
    union all
    select format('sequence %s', c.oid::regclass) from pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relkind = 'S' and c.relname like 'market\_%'
  loop
    execute format('revoke all on %s from public, anon, authenticated, service_role', what);
  end loop;
  for given in
    with api(role, source) as (
      values ('authenticated', 'market_producer'), ('authenticated', 'market_reader'),
             ('service_role', 'market_producer'), ('service_role', 'market_reader'), ('service_role', 'market_operator')
    ), rights as (
      select 'table ' || c.oid::regclass as thing, a.privilege_type as privilege, a.grantee
        from pg_class c, aclexplode(c.relacl) a where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
      union all
      select 'table ' || c.oid::regclass, format('%s (%I)', a.privilege_type, t.attname), a.grantee
        from pg_class c join pg_attribute t on t.attrelid = c.oid, aclexplode(t.attacl) a
       where c.relnamespace = 'public'::regnamespace and t.attnum > 0 and not t.attisdropped
      union all
      select 'function ' || p.oid::regprocedure, a.privilege_type, a.grantee
        from pg_proc p, aclexplode(p.proacl) a where p.pronamespace = 'public'::regnamespace
    )
    select distinct r.thing, r.privilege, api.role from rights r join api on r.grantee = to_regrole(api.source)
  loop
    execute format('grant %s on %s to %I', given.privilege, given.thing, given.role);
  end loop;
end $$;

grant usage on schema public to authenticated, service_role;
-- Membership says who is trusted to ask in other names (market__trusted); it gives a role without INHERIT nothing else.
grant market_operator to service_role;

drop policy if exists api_own on market_jobs;
create policy api_own on market_jobs for select to authenticated using (
  user_id = (select market__identity())
  or exists (select from market_job_requests r where r.job_id = market_jobs.id and r.user_id = (select market__identity())));
drop policy if exists api_ask on market_jobs;
create policy api_ask on market_jobs for insert to authenticated, service_role with check (true);
drop policy if exists api_all on market_jobs;
create policy api_all on market_jobs for select to service_role using (true);
drop policy if exists api_own on market_job_requests;
create policy api_own on market_job_requests for select to authenticated using (user_id = (select market__identity()));
drop policy if exists api_all on market_job_requests;
create policy api_all on market_job_requests for select to service_role using (true);
