-- What a daemon writes of itself and of its configuration.

-- name: register
insert into market_daemons (daemon_id, host, pid, version, config_hash, quotas, alive_until)
values ($1, $2, $3, $4, $5, $6::jsonb, clock_timestamp() + $7::interval)
on conflict (daemon_id) do update set config_hash = excluded.config_hash, quotas = excluded.quotas,
  alive_until = excluded.alive_until;

-- name: one_tick_at_a_time
-- Ticks enter one after the other, so that the next statement's count holds.
select pg_advisory_xact_lock(hashtext('marketd.tick'));

-- name: enter_as_tick
-- $1 id  $2 host  $3 pid  $4 version  $5 alive for (interval)  $6 at most so many at once. The configuration follows by `register`.
insert into market_daemons (daemon_id, host, pid, version, kind, config_hash, alive_until)
select $1, $2, $3, $4, 'tick', coalesce(s.config_hash, ''), clock_timestamp() + $5::interval
  from market_settings s
 where (select count(*) from market_daemons d where d.kind = 'tick' and d.alive_until > clock_timestamp()) < $6
returning daemon_id;

-- name: is_in_force
select config_hash is not distinct from $1 from market_settings;

-- name: knock
select pg_notify($1, '');

-- name: unregister
delete from market_daemons where daemon_id = $1 or alive_until < clock_timestamp() - interval '1 day';

-- name: keep_in_step
-- Other live daemons whose configuration differs from ours. In passing: a lane is on as long as any live daemon runs it,
-- whoever started last, and off when the last of those that did has gone; and why we refuse a newer file, if we do, is told
-- to `marketd status`. $1 daemon  $2 our hash  $3 why, or null
with told as (
  select lane.key, bool_or((lane.value ->> 'on')::boolean) as runs, min(lane.value ->> 'off_reason') as off_reason
    from market_daemons d cross join lateral jsonb_each(d.quotas) lane
   where d.alive_until > clock_timestamp() group by lane.key having bool_or((lane.value ->> 'on')::boolean) is not null
), switched as (
  update market_providers p set enabled = t.runs, off_reason = case when not t.runs then t.off_reason end
    from told t where t.key = p.provider || '/' || p.account and t.runs <> p.enabled
), refusal as (
  update market_daemons d set reload_refused = $3 where d.daemon_id = $1 and d.reload_refused is distinct from $3
)
select daemon_id, host, pid, config_hash from market_daemons
 where alive_until > clock_timestamp() and daemon_id <> $1 and config_hash <> $2;

-- name: is_lost
-- Whether what we wrote is lost: the configuration that was written last is another one, of no live daemon; or our own row
-- has gone (a restore, a failover, a day out of reach), and we count as dead; or it says what we do not run by, for the answer
-- to the commit of a reload was lost, and so the reload is given up. $1 daemon  $2 our hash
select s.config_hash is distinct from $2 and not exists (
         select from market_daemons d where d.alive_until > clock_timestamp() and d.config_hash = s.config_hash)
       or not exists (select from market_daemons d where d.daemon_id = $1 and d.config_hash = $2)
  from market_settings s;

-- name: know_zones
-- Raises for a zone that this server does not know (its list may be older than ours), else each charge would.
select clock_timestamp() at time zone x.zone from unnest($1::text[]) x(zone);

-- name: put_settings
update market_settings set fresh_for = $1, wake_priority = $2, max_attempts = $3, default_size_system = $4,
  hour_s = $5, day_s = $6, fallback_images = $7::jsonb, config_hash = $8, updated_at = clock_timestamp();

-- name: put_provider
-- Limits of one account. The operator's pause, cool-down, circuit and pace stay. Whether it is on: see keep_in_step.
insert into market_providers as p (provider, account, enabled, off_reason, all_sizes, currency, currencies, quota_hour, quota_day,
  day_zone, day_start, rolling, reserve, background_min, pace_s, circuit_after, circuit_open_s, images, first_calls)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
on conflict (provider, account) do update set
  enabled = excluded.enabled, off_reason = excluded.off_reason,
  all_sizes = excluded.all_sizes, currency = excluded.currency,
  currencies = excluded.currencies, quota_hour = excluded.quota_hour, quota_day = excluded.quota_day,
  day_zone = excluded.day_zone, day_start = excluded.day_start, rolling = excluded.rolling, reserve = excluded.reserve,
  background_min = excluded.background_min, pace_s = excluded.pace_s, circuit_after = excluded.circuit_after,
  circuit_open_s = excluded.circuit_open_s, images = excluded.images, first_calls = excluded.first_calls;

-- name: carry
-- What windows that begin elsewhere now were charged before. $1 provider  $2 account
select market__carry(p, s, clock_timestamp()) from market_providers p, market_settings s where p.provider = $1 and p.account = $2;

-- name: probe_again
-- Whoever loads a configuration may have mended the credentials, here or at the provider: a probe at once.
update market_providers set circuit_until = clock_timestamp()
 where circuit = 'open' and circuit_reason = 'unauthorized' and circuit_until > clock_timestamp()
   and (provider, account) in (select * from unnest($1::text[], $2::text[]));

-- name: switch_off_others
-- Providers and accounts that the configuration does not name any more.
update market_providers set enabled = false, off_reason = 'not in the configuration'
 where enabled and (provider || '/' || account) <> all ($1::text[]);

-- name: clear_account_users
delete from market_account_users;

-- name: put_account_user
insert into market_account_users (provider, user_id, account) values ($1, $2, $3);
