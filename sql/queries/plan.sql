-- The planner's pass; what it does stands in sql/migrations/0007_plan.sql.

-- name: put_dials
update market_planner set enabled = $1, kappa = $2, lane = $3, memory_h = $4, size_weight = $5, prior_a = $6,
  prior_b_h = $7, evidence_cap = $8, slowest_h = $9
 where (enabled, kappa, lane, memory_h, size_weight, prior_a, prior_b_h, evidence_cap, slowest_h)
       is distinct from ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: fold
-- more: the statement's own limit ended it, so there may be others. First watches move, of which there is word to fold.
select case when market__move_watches(2000) >= 2000 then true else market__fold(clock_timestamp(), 20000) >= 20000 end as more;

-- name: accounts
-- Accounts that a pass has work for: something of theirs is watched, or waits.
select p.provider, p.account from market_providers p
 where p.enabled and (exists (select from market_units u where u.provider = p.provider and u.account = p.account)
                      or exists (select from market_plans x where x.provider = p.provider and x.account = p.account))
 order by 1, 2;

-- name: plan
-- $1 provider  $2 account  $3 seconds until the next pass
select market__plan($1, $2, $3::float8);

-- name: freshness
-- What the last passes found, for gauges. Nothing viewed: fresh, and of no age; a view that sees no price sees no age. An account
-- that is off has no passes any more, nor has a planner that is off, and the last one would be told for ever.
select provider, coalesce(sum(x.fresh_rate) / nullif(sum(x.view_rate), 0), 1)::float8 as view_freshness,
       coalesce(3600 * sum(x.aged_rate) / nullif(sum(x.priced_rate), 0), 0)::float8 as view_age,
       max(x.marginal_gain)::float8 as marginal_call, sum(x.units)::float8 as units_watched, max(x.took_ms)::float8 / 1000 as plan_time
  from market_plans x join market_providers p using (provider, account) cross join market_planner d
 where p.enabled and d.enabled group by provider;

-- name: next_units
-- $1 provider or null: all  $2 rows
select place, provider_name as provider, account, sku, size, currency, value, why, age_s, still_right, views_per_day,
       changes_per_day, job_id
  from market_plan($1::text, $2::int);

-- name: watch
select * from market_watch($1::jsonb, $2::text);

-- name: unwatch
select * from market_unwatch($1::jsonb, $2::text);

-- name: advice
-- What status says of freshness and budgets.
select provider, account, units, freshness, view_age_s, views_per_call, share, waiting, inserted, planned_at, advice
  from market_freshness order by 1, 2;
