-- The scheduler's passes.

-- name: begin_run
-- One run per tick whatever the number of daemons: whoever updates the row first has it, and the others, who waited for the
-- row, look at it again and find the tick taken. Nobody leads, so nobody can hang as the leader.
-- $1 trigger  $2 least distance between two runs (interval)  $3 somebody asked: one run for each time, whoever hears it
with tick as (
  update market_settings s set run_started_at = clock_timestamp()
   where coalesce(s.run_started_at, '-infinity') < clock_timestamp() - $2::interval
      or s.run_started_at > clock_timestamp()   -- from before the clock was set back
      or $3 and (select w.asked_at from market_run_wish w) > coalesce(s.run_started_at, '-infinity')
  returning s.run_started_at
)
insert into market_job_runs as n (trigger, started_at) select $1, t.run_started_at from tick t
returning run_id, started_at,
  coalesce((select max(r.started_at) from market_job_runs r where r.started_at < n.started_at),
           started_at - interval '1 hour') as previous_at;

-- name: end_run
update market_job_runs set completed_at = clock_timestamp(), jobs_selected = $2, jobs_succeeded = $3, jobs_failed = $4,
  jobs_deferred = (select count(*) from (select from market_jobs where status = 'deferred' limit 100000) d), error = $5
 where run_id = $1;

-- name: last_runs
select run_id, trigger, started_at, completed_at, jobs_selected, jobs_succeeded, jobs_failed, jobs_deferred, error
  from market_job_runs order by started_at desc limit $1;

-- name: learn_demand
-- Smoothed on-demand calls per hour, what `reserve: auto` keeps calls for. Exponential with a memory of six hours.
-- $1 seconds since the last run
select market__learn_demand($1::float8);

-- name: prune_jobs
-- In small batches, so that no vacuum debt and no long lock arises. $1 keep (interval)  $2 rows
-- (select clock_timestamp()): a bare call is evaluated per row and is no index condition. `= any (array(...))`: the planner takes an
-- unknown LIMIT for a tenth of the table, and would read all of it for a join.
with old as (
  select id from market_jobs where status in ('done', 'failed') and completed_at < (select clock_timestamp()) - $1::interval
   order by completed_at limit $2 for update skip locked
), requests as (
  delete from market_job_requests r where r.job_id = any (array(select o.id from old o))
), gone as (
  delete from market_jobs j where j.id = any (array(select o.id from old o)) returning 1
)
select count(*) as gone from gone;

-- name: prune_joined
-- Who joined a job that waits for long: a page that asks each second for what an account that is off should fetch. The one who
-- opened it stays with it; so does what the job does not know of yet.
with old as (
  select request_id from market_job_requests
   where not opened and folded and (served or not loose) and requested_at < (select clock_timestamp()) - $1::interval
   order by requested_at limit $2 for update skip locked
), gone as (
  delete from market_job_requests r where r.request_id = any (array(select o.request_id from old o)) returning 1
)
select count(*) as gone from gone;

-- name: prune_history
-- In no order: that would read all that is old for each batch.
with old as (select ctid from market_price_history where observed_at < (select clock_timestamp()) - $1::interval limit $2)
   , gone as (delete from market_price_history h using old where h.ctid = old.ctid returning 1)
select count(*) as gone from gone;

-- name: prune_requests
with old as (select request_id from market_requests where granted_at < (select clock_timestamp()) - $1::interval
              order by granted_at limit $2)
   , gone as (delete from market_requests r where r.request_id = any (array(select o.request_id from old o)) returning 1)
select count(*) as gone from gone;

-- name: prune_rest
with runs as (
  delete from market_job_runs where started_at < (select clock_timestamp()) - interval '30 days'
), grants as (
  delete from market_grants where send_at < clock_timestamp() - interval '2 hours'
), fetches as (
  delete from market_fetches where lease_expires_at < clock_timestamp() - interval '1 hour'
), budgets as (
  delete from market_budgets where window_end < clock_timestamp() - interval '30 days'
), metrics as (
  delete from market_provider_metrics where window_start < clock_timestamp() - interval '90 days'
)
delete from market_daemons where alive_until < clock_timestamp() - interval '1 day';

-- name: wishes_to_come
-- Request numbers in ($1, $2] and of $3 that are not there: drawn by an app whose commit is to come, or never comes. One is waited
-- for until so many later ones were drawn, or for ten minutes (Gauges).
select coalesce(array_agg(c.number), '{}') as numbers
  from (select generate_series(greatest($1::bigint + 1, $2::bigint - 50000), $2::bigint) as number
        union all select m.number from unnest($3::bigint[]) m(number) where m.number > $2::bigint - 50000) c
 where not exists (select from market_job_requests r where r.request_id = c.number);

-- name: wishes
-- What apps asked for with request numbers in ($1, $2] or of $3, without those of $4; and what became of it, as they were told.
-- `fresh` and refused requests leave no row.
select j.provider,
       case when r.priority >= 200 then 'manual' when r.priority >= s.wake_priority then 'hot' else 'background' end as band,
       case when r.opened then 'queued' when r.raised then 'raised' else 'merged' end as result,
       count(*)::int as wishes
  from market_job_requests r
  cross join market_settings s
  cross join lateral (select m.provider from market_jobs m where m.id = r.job_id offset 0) j   -- by key, one by one
 where (r.request_id > $1 and r.request_id <= $2 or r.request_id = any ($3::bigint[]))
   and r.request_id <> all ($4::bigint[])
 group by 1, 2, 3;

-- name: last_wish
-- The number of the latest request by an app.
select coalesce(max(request_id), 0) as number from market_job_requests;

-- name: price_ages
-- Age of stored prices in seconds by provider, at the quantiles 0.5, 0.95 and 1. Estimated as target_states: a sort of
-- millions would outlast the time limit.
with part as (
  select least(100, 100 * 2000 / greatest(1, pg_relation_size('market_prices') / current_setting('block_size')::float8)) as percent
)
select provider, percentile_cont(array[0.5, 0.95, 1]) within group (order by date_part('epoch', clock_timestamp() - observed_at)) as ages_s
  from market_prices tablesample system ((select percent from part)) repeatable (1) group by provider;

-- name: target_states
-- Of some 50,000 and more it is estimated from as many pages as those fill, each time the same ones.
with part as (
  select least(100, 100 * 2000 / greatest(1, pg_relation_size('market_targets') / current_setting('block_size')::float8)) as percent
)
select t.provider,
       case when t.retry_at > clock_timestamp() then 'cooling' when t.observed_at is null then 'never'
            when t.observed_at > clock_timestamp() - s.fresh_for then 'fresh' else 'stale' end as state,
       round(count(*) * 100 / (select percent from part))::int as targets
  from market_targets t tablesample system ((select percent from part)) repeatable (1), market_settings s group by 1, 2;

-- name: oldest_xmin
-- Transactions that the oldest snapshot in this database holds back from vacuum.
select coalesce(max(age(backend_xmin)), 0)::int as age from pg_stat_activity
 where backend_xmin is not null and datname = current_database();

-- name: lock_holders
-- Other sessions whose locks keep those of our login and name waiting: who, for what, since when. Of another login Postgres
-- shows `state` and `transaction_since` to members of pg_read_all_stats only.
with waiting as (
  select l.pid, min(l.waitstart) as since,
         min(l.relation::regclass::text) as waits_for   -- who waits for a row has a lock named `tuple` on it already
    from pg_locks l where not l.granted or l.locktype = 'tuple'
   group by l.pid having not bool_and(l.granted)
), ours as (
  select a.pid from pg_stat_activity a
   where a.datname = current_database() and a.usename = current_user and a.application_name = current_setting('application_name')
)
select b.pid as holder, b.usename::text as login, b.application_name, b.state, b.xact_start as transaction_since,
       string_agg(distinct w.waits_for, ', ') as waits_for, array_agg(distinct w.pid) as waiting, min(w.since) as waiting_since
  from waiting w join ours using (pid)
  cross join lateral unnest(pg_blocking_pids(w.pid)) h(pid)
  join pg_stat_activity b on b.pid = h.pid
 where b.pid not in (select o.pid from ours o)
 group by 1, 2, 3, 4, 5;
