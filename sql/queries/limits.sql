-- The gate in front of every request: see sql/migrations/0003_limits.sql for the rules.

-- name: take
-- Charges the requests of several fetches that are to leave now, one after the other as if each had come alone; what they
-- share is the round trip, the row lock and the flush of the log. A function of its own snapshot sees the charges before it.
-- $1 provider  $2 account  $3 priorities  $4 meters  $5 receipts of the calls before, in fetches that
-- have begun  $6 daemon  $7 lead (seconds). after_s: how long after the statement came here each was granted
select t.*, date_part('epoch', t.granted_at - statement_timestamp()) - t.delay_s as after_s
  from unnest($3::int[], $4::text[], $5::text[]) with ordinality x(priority, meter, after, n)
  cross join lateral (select * from market_take($1, $2, x.priority, x.meter, x.after, $6, $7)) t;

-- name: take_block
-- Calls for several fetches and for those that will soon ask. $1 provider  $2 account  $3 lowest and $4 highest priority of
-- those who wait  $5 calls
select * from market_take_block($1, $2, $3, $4, $5);

-- name: give_back_block
select market_give_back_block($1, $2);

-- name: move
-- Other moments for several requests that missed theirs, one after the other as in `take`.
-- $1 provider  $2 account  $3 receipts  $4 the moments that were missed  $5 lead (seconds)
select m.*, date_part('epoch', m.moment - statement_timestamp()) - m.delay_s as after_s
  from unnest($3::text[], $4::timestamptz[]) with ordinality x(receipt, missed, n)
  cross join lateral (select * from market_move($1, $2, x.receipt, x.missed, $5)) m;

-- name: give_back
select market_give_back($1);

-- name: report
select * from market_report($1, $2, $3, $4, $5, $6, $7);

-- name: reconcile
select market_reconcile($1, $2, $3, $4);

-- name: record_requests
-- The call record and the hourly figures, in bulk: an array for each column. What a try before wrote, whose commit was not heard of,
-- is there already: no two calls were granted in one moment and took equally long.
with rows as materialized (
  select r.* from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::timestamptz[], $6::text[], $7::int[],
                       $8::double precision[], $9::boolean[], $10::text[], $11::timestamptz[], $12::boolean[], $13::text[])
    as r(provider, account, endpoint, priority, granted_at, status_class, http_status, took_s, given_back, meter,
         cost_window, useful, wasted_reason)
   where not exists (select from market_requests q where q.granted_at = r.granted_at and q.provider = r.provider
                        and q.account = r.account and q.endpoint = r.endpoint and q.took_s = r.took_s)
), kept as (
  insert into market_requests (provider, account, endpoint, priority, granted_at, status_class, http_status, took_s,
                               given_back, meter, cost_window, useful, wasted_reason)
  select * from rows
)
insert into market_provider_metrics as m (provider, account, window_start, requests, succeeded, throttled, failed, took_s)
select provider, account, date_trunc('hour', granted_at, 'UTC'), count(*),
       count(*) filter (where status_class = 'ok'), count(*) filter (where status_class = 'throttled'),
       count(*) filter (where status_class not in ('ok', 'throttled')), sum(took_s)
  from rows where not given_back group by 1, 2, 3
on conflict (provider, account, window_start) do update set requests = m.requests + excluded.requests,
  succeeded = m.succeeded + excluded.succeeded, throttled = m.throttled + excluded.throttled,
  failed = m.failed + excluded.failed, took_s = m.took_s + excluded.took_s;

-- name: budget_gauges
select provider, account, window_kind, quota, used, remaining, urgent_left, background_waits_for is not null as background_waits,
       resets_in_s, over, lane_state
  from market_budget_status;

-- name: lane_states
select provider, account, market__lane_state(p) as state,
       p.circuit_until as until, coalesce(p.paused_reason, p.circuit_detail, p.off_reason) as reason,
       market__lane_state(p) = 'cooldown' and p.circuit_reason = 'unauthorized' as locked_out
  from market_providers p order by 1, 2;
