-- What the demo shows.

-- name: clock
select clock_timestamp();

-- name: rows
-- $1 JSON: [{provider, sku, size}]. One row each, in that order: its price, and what it waits for.
select s.currency, s.lowest_ask, s.highest_bid, s.last_sale, s.age_s, s.state,
       s.last_error_code, s.last_error_message, s.job_status, y.waiting_for, y.detail,
       date_part('epoch', y.until - clock_timestamp()) as waits_s
  from jsonb_array_elements($1::jsonb) with ordinality as w(item, ord)
  left join market_price_status s on s.provider = w.item ->> 'provider' and s.account = 'default'
       and s.sku = w.item ->> 'sku' and s.size is not distinct from w.item ->> 'size'
  left join lateral market_why(s.job_id) y on s.job_id is not null
 order by w.ord;

-- name: lanes
-- $1 providers
select b.provider, b.used, b.quota, b.remaining, b.resets_in_s, b.lane_state, b.reason,
       b.background_waits_for, date_part('epoch', b.background_until - clock_timestamp()) as background_waits_s,
       (select count(*) from market_prices p where p.provider = b.provider) as prices,
       (select count(*) from market_jobs j, market_settings s
         where j.provider = b.provider and j.completed_at is null and j.priority < s.wake_priority) as waiting
  from market_budget_status b
 where b.window_kind = 'hour' and b.account = 'default' and b.provider = any ($1)
 order by array_position($1, b.provider);

-- name: background
-- $1 since when
select count(*) filter (where status = 'done') as done, count(*) filter (where status = 'failed') as failed,
       count(*) filter (where completed_at is null) as waiting
  from market_jobs j, market_settings s
 where j.priority < s.wake_priority and (j.completed_at is null or j.completed_at >= $1);

-- name: refresh
select ord, result, error_message from market_refresh($1::jsonb);

-- name: enqueue_many
select ord, result from market_enqueue_many($1::jsonb);
