-- What the command line reads and asks for.

-- name: lanes
-- Each provider account: its state, and whether a call of either kind may leave now or what it waits for.
select p.provider, p.account, market__lane_state(p) as state,
       p.circuit_until as until,
       coalesce(case when not p.enabled then p.off_reason end, p.paused_reason, p.circuit_detail) as reason,
       u.reason as urgent_waits_for, u.until as urgent_until, b.reason as background_waits_for, b.until as background_until
  from market_providers p
  cross join market_settings s
  cross join lateral market__shown_verdict(p, s, true) u
  cross join lateral market__shown_verdict(p, s, false) b
 order by 1, 2;

-- name: queue
-- Open jobs by lane and band, the most urgent first.
select provider, account, band,
       coalesce(sum(jobs) filter (where status = 'pending'), 0)::bigint as pending,
       coalesce(sum(jobs) filter (where status = 'running'), 0)::bigint as running,
       coalesce(sum(jobs) filter (where status = 'deferred'), 0)::bigint as deferred,
       max(oldest_ready_s) filter (where status = 'pending') as oldest_ready_s
  from market_queue_status
 group by 1, 2, 3
 order by 1, 2, array_position(array['manual', 'hot', 'background'], band);

-- name: budgets
select provider, account, window_kind, used, quota, remaining, urgent_left, background_left, given_back, refused,
       window_end as resets_at, resets_in_s
  from market_budget_status
 order by 1, 2, window_kind desc;

-- name: errors
-- Why jobs fail or are tried again, the most frequent first, each with its latest message. In two parts, so that each
-- has its partial index: finished jobs are many.
with troubled as (
  select provider, error_code, error_message, updated_at, true as failed from market_jobs where status = 'failed'
  union all
  select provider, error_code, error_message, updated_at, false from market_jobs
   where status in ('pending', 'running', 'deferred') and error_code is not null
)
select provider, error_code, count(*) filter (where failed) as failed, count(*) filter (where not failed) as retrying,
       max(updated_at) as last_at, (array_agg(error_message order by updated_at desc))[1] as last_message
  from troubled
 group by 1, 2
 order by count(*) desc, 1, 2
 limit 10;

-- name: providers
select distinct provider from market_providers order by 1;

-- name: error_codes
-- What a job's last error may be called here: the words of the jobs that there are.
select distinct error_code from market_jobs where error_code is not null order by 1;

-- name: daemons
select host, pid, version, started_at, alive_until, config_hash, reload_refused,
       count(*) over (partition by config_hash) < count(*) over () as config_differs
  from market_daemons
 where alive_until > clock_timestamp()
 order by started_at;

-- name: clock
-- The database's own time, by which all ages are told, and what it holds.
select clock_timestamp() as now, (select max(version) from market_schema) as schema_version,
       (select config_hash from market_settings) as config_hash;

-- name: jobs
-- $1 states  $2 provider  $3 error code  $4 least age (interval)  $5 band; null: any  $6 rows  $7 the longest due first, else the newest
select id, provider, account, sku, size, currency, priority, status, attempt, max_attempts, outcome, error_code,
       error_message, user_id, run_at, created_at, started_at, completed_at,
       date_part('epoch', clock_timestamp() - created_at) as age_s
  from market_jobs
 where ($1::text[] is null or status = any ($1))
   and ($2::text is null or provider = $2)
   and ($3::text is null or error_code = $3)
   and ($4::interval is null or created_at < clock_timestamp() - $4)
   and ($5::text is null or $5 = case when priority >= 200 then 'manual'
          when priority >= (select wake_priority from market_settings) then 'hot' else 'background' end)
 order by case when $7::boolean then run_at end, id desc
 limit $6;

-- name: why_job
select w.*, clock_timestamp() as now, j.provider, j.account, j.sku, j.size, j.currency, j.priority, j.attempt, j.max_attempts
  from market_why($1::bigint) w left join market_jobs j on j.id = $1;

-- name: why_item
select w.*, clock_timestamp() as now from market_why($1::text, $2::text, $3::text, $4::text) w;

-- name: enqueue
-- $6 a time, or $7 a span from now
select e.*, clock_timestamp() as now
  from market_enqueue($1, $2, $3, $4, $5, coalesce($6::timestamptz, clock_timestamp() + $7::interval), $8) e;

-- name: retry
select market_retry($1::text, $2::text, $3::bigint[]) as jobs;

-- name: not_failed
-- Which of these jobs there is nothing to retry of. status null: there is no such job; superseded: its item's later job counts.
select x.id, j.status,
       exists (select from market_jobs l where l.dedupe_key = j.dedupe_key and l.id > j.id and l.status in ('done', 'failed')) as superseded
  from unnest($1::bigint[]) with ordinality x(id, n) left join market_jobs j on j.id = x.id
 where j.status is distinct from 'failed'
    or exists (select from market_jobs l where l.dedupe_key = j.dedupe_key and l.id > j.id and l.status in ('done', 'failed'))
 order by x.n;

-- name: pause
-- The empty notification: daemons tell of their lanes' states at once.
select p.account, p.state from market_pause($1::text, $2::text) p, pg_notify('market_jobs', '') told;

-- name: resume
select r.account, r.state from market_resume($1::text) r, pg_notify('market_jobs', '') told;
