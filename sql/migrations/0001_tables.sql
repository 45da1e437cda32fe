-- The tables. Who writes what is the first rule of this schema:
--   apps write market_jobs (new rows, and rows that still wait), market_job_requests and new rows of market_targets;
--   the daemon writes all the rest.
-- So an app that idles in a transaction holds nothing that a fetch, a claim or the planner has to wait for.

create table market_settings (
  only_row boolean primary key default true check (only_row),
  fresh_for interval not null default '10 minutes',
  wake_priority int not null default 150,
  max_attempts int not null default 5 check (max_attempts > 0),
  max_rescues int not null default 3 check (max_rescues > 0),
  default_size_system text not null default 'us' check (default_size_system in ('us', 'uk', 'eu')),
  hour_s double precision not null default 3600 check (hour_s > 0),  -- other lengths are for tests and demos
  day_s double precision check (day_s > 0),                          -- null: the provider's own calendar day
  -- as config.yaml ships them; the admin server has the files
  fallback_images jsonb not null default '{"sneakers": "/images/fallback/sneakers.svg",
    "trading_cards": "/images/fallback/trading-cards.svg", "collectibles": "/images/fallback/collectibles.svg",
    "default": "/images/fallback/default.svg"}',
  config_hash text,
  run_started_at timestamptz,             -- the scheduler's latest pass, of whatever daemon
  updated_at timestamptz not null default now()
);
comment on table market_settings is 'What the SQL functions need to know of config.yaml; written by the daemon at start and SIGHUP.';
insert into market_settings default values;

-- Apart from market_settings, which each pass writes: a wish may be said in a transaction that stays open.
create table market_run_wish (
  only_row boolean primary key default true check (only_row),
  asked_at timestamptz not null default '-infinity'
);
comment on table market_run_wish is 'When somebody last asked for a pass (market_run_now).';
insert into market_run_wish default values;

create table market_providers (
  provider text not null,
  account text not null default 'default',
  enabled boolean not null default true,
  off_reason text,                        -- why it is off, for people
  all_sizes boolean not null default true,  -- one call returns every size of a product
  images boolean not null default false,    -- it tells a product's image
  first_calls int not null default 1 check (first_calls > 0),  -- of a product that was never found; one that was costs 1
  currency text not null default 'USD' check (currency ~ '^[A-Z]{3}$'),
  currencies text[] not null default '{}',  -- what may be asked; empty: any
  quota_hour int check (quota_hour >= 0),
  quota_day int check (quota_day >= 0),
  day_zone text not null default 'UTC',
  day_start time not null default '00:00',
  rolling boolean not null default false,   -- the hour is the last 60 minutes, not the clock's
  reserve double precision check (reserve between 0 and 1),  -- null: auto
  background_min double precision not null default 0.05 check (background_min between 0 and 1),
  pace_s double precision not null default 1 check (pace_s >= 0),
  on_demand_per_h double precision not null default 0,  -- smoothed; what `auto` reserves for
  circuit_after int not null default 5,       -- failures in a row that open the circuit
  circuit_open_s double precision not null default 30,
  paused_at timestamptz,
  paused_reason text,
  circuit text not null default 'closed' check (circuit in ('closed', 'open', 'half_open')),
  circuit_reason text check (circuit_reason in ('throttled', 'unauthorized', 'errors')),
  circuit_until timestamptz,                  -- open: when a probe may go; half open: when the probe is given up
  circuit_detail text,
  circuit_day_spent boolean not null default false,  -- the provider says so: no use in asking earlier
  circuit_probe bigint not null default 0,    -- number of the latest probe
  circuit_prober uuid,                        -- half open: the daemon whose probe is under way
  circuit_failures int not null default 0,
  circuit_opens int not null default 0,       -- openings in a row, for the backoff
  next_request_at timestamptz not null default '-infinity',   -- pace: earliest time of the next request
  reported_remaining int,                     -- the provider's own word on its day, where it has one
  reported_at timestamptz,
  reported_drift int,                         -- calls that it counted and we did not (or, negative, the reverse)
  primary key (provider, account),
  constraint circuit_reason_iff_not_closed check ((circuit = 'closed') = (circuit_reason is null))
) with (fillfactor = 50);
comment on table market_providers is 'One row per provider account: limits, operator pause, circuit and cool-down, pace. Takers of a call lock it.';
insert into market_providers (provider, all_sizes, images, first_calls, currency, currencies, quota_hour, quota_day, day_zone) values
  ('stockx', true, false, 3, 'GBP', '{AUD,CAD,CHF,EUR,GBP,HKD,JPY,KRW,MXN,NZD,SGD,USD}', 100, 25000, 'UTC'),
  ('alias', true, true, 2, 'USD', '{USD}', 200, null, 'UTC'),
  ('ebay', false, true, 1, 'USD', '{USD}', 150, 5000, 'America/Los_Angeles');

create table market_account_users (
  provider text not null,
  user_id text not null,
  account text not null,
  primary key (provider, user_id)
);
comment on table market_account_users is 'Whose jobs go through which account; anyone else uses ''default''.';

create table market_daemons (
  daemon_id uuid primary key,
  host text not null,
  pid int not null,
  version text not null,
  kind text not null default 'run' check (kind in ('run', 'tick')),   -- a tick goes by itself: see `marketd tick`
  config_hash text not null,
  quotas jsonb not null default '{}',     -- what its file says of each lane, as DaemonStore.apply writes it: the lower limit holds
  started_at timestamptz not null default clock_timestamp(),
  alive_until timestamptz not null,
  died_at timestamptz,                    -- when its fetches were taken away for the first time
  reload_refused text                     -- the first fault for which it goes on with its former file
);
comment on table market_daemons is 'Live daemons. A row whose alive_until is past is dead.';

create table market_budgets (
  provider text not null,
  account text not null default 'default',
  window_kind text not null check (window_kind in ('hour', 'day', 'mints', 'reports')),
  window_start timestamptz not null,
  window_end timestamptz not null,
  used int not null default 0 check (used >= 0),
  used_background int not null default 0 check (used_background >= 0),
  carried int not null default 0,         -- of `used`: charged in windows that began elsewhere, before the configuration moved them
  given_back int not null default 0,
  refused int not null default 0,
  background_tokens double precision,     -- spread: background calls that may go at once, as of background_at
  background_at timestamptz,
  quota int,                              -- as of the last charge; null: no limit. May be below used after a cut.
  primary key (provider, account, window_kind, window_start)
) with (fillfactor = 50);
comment on table market_budgets is 'Calls charged per window, each before it was sent.';

create table market_grants (
  provider text not null,
  account text not null,
  send_at timestamptz not null,
  grant_id bigint generated always as identity primary key
);
create index market_grants_rolling on market_grants (provider, account, send_at);
comment on table market_grants is 'One row per call of the last hour, for providers with a rolling window only.';

create table market_requests (
  request_id bigint generated always as identity primary key,
  provider text not null,
  account text not null,
  endpoint text not null,
  priority int not null,
  granted_at timestamptz not null,
  status_class text not null,
  http_status int,
  took_s double precision not null,
  given_back boolean not null default false,
  meter text not null default 'calls',
  cost_window timestamptz,                -- start of the shortest window that was charged
  useful boolean,                         -- null: given back, or of no fetch (a usage report)
  wasted_reason text,
  constraint wasted_has_reason check ((useful is false) = (wasted_reason is not null))
);
create index market_requests_recent on market_requests (granted_at, provider);
comment on table market_requests is 'The call record: where the budget went. Written in bulk, kept some days.';

create table market_targets (
  provider text not null,
  account text not null,
  sku text not null,
  size text,
  currency text not null,
  dedupe_key text primary key,
  unit_key text not null,
  price_size text,                        -- the provider's own US size, once a fetch told it
  last_outcome text,                      -- priced, no_asks, all_sizes
  observed_at timestamptz,                -- database time of the request that brought the last price
  last_success_at timestamptz,
  last_attempt_at timestamptz,
  last_error_at timestamptz,
  last_error_code text,
  last_error_message text,
  retry_at timestamptz,                   -- cool-down of the target itself (not listed, mapping broken, ...)
  overridden_at timestamptz,              -- when a refresh at wake_priority last looked past retry_at
  created_at timestamptz not null default clock_timestamp()
-- One fetch updates all sizes of a product, which were asked together and lie together: half of the page is theirs, so that
-- no update has to leave it and write the indexes.
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1
);
-- Serves market_price_status, which apps read by item, and settle's look for the other sizes of a product.
create index market_targets_sku on market_targets (sku);
comment on table market_targets is 'Everything ever asked: one row per provider, account, sku, size, currency. Jobs come and go.';

create table market_jobs (
  id bigint generated always as identity primary key,
  provider text not null,
  account text not null default 'default',
  sku text not null,
  size text,
  currency text not null,
  priority int not null default 100,
  status text not null default 'pending',
  not_before timestamptz,                 -- earliest time that an app asked for
  retry_at timestamptz,                   -- backoff, snooze or the target's cool-down; apart from not_before
  run_at timestamptz not null default now(),  -- when it is, or became, due: the later of the two above
  rank double precision not null default 0,   -- the planner's value
  turn bigint not null default 0,             -- round-robin by user: start tag of start-time fair queueing
  attempt int not null default 0,
  max_attempts int not null default 5,
  rescues int not null default 0,
  suspect_since timestamptz,                  -- when its worker died for the first time
  lead boolean not null default false,        -- the job for which its unit was claimed
  lease_id uuid,
  lease_expires_at timestamptz,
  locked_by uuid,
  user_id text,
  error_code text,
  error_message text,
  outcome text,
  overridden_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  completed_at timestamptz,
  updated_at timestamptz not null default clock_timestamp(),
  dedupe_key text not null,
  unit_key text not null,
  constraint status_known check (status in ('pending', 'running', 'deferred', 'done', 'failed')),
  constraint priority_range check (priority between 0 and 1000),
  constraint lease_iff_running check ((status = 'running') = (lease_id is not null and lease_expires_at is not null)),
  constraint finished_iff_final check ((status in ('done', 'failed')) = (completed_at is not null)),
  constraint failed_has_reason check (status <> 'failed' or error_code is not null),
  constraint done_has_outcome check (status <> 'done' or outcome is not null)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200,
  autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 200,
  autovacuum_vacuum_cost_delay = 1
);
comment on table market_jobs is 'One request to refresh a target: pending -> running -> done | failed, and deferred (waiting for a time).';
-- One open job per target; what the enqueue functions look up.
create unique index market_jobs_open on market_jobs (dedupe_key) where status in ('pending', 'running', 'deferred');
-- Serves claim: its filter and its order.
create index market_jobs_ready on market_jobs (provider, account, priority desc, rank desc, turn, run_at, id)
  where status = 'pending';
-- Serves claim's mates: all that waits for one unit.
create index market_jobs_mates on market_jobs (unit_key) where status = 'pending';
-- Serves market__turn: the last place that a user holds in a queue.
-- One number for the queue and its user: a look reads a page of entries, and four texts of each took longer than the rest.
create index market_jobs_turns on market_jobs (hashtextextended(provider || '|' || account || '|' || coalesce(user_id, ''), priority), turn)
  where status = 'pending';
-- Serves poll: promotion of what became due, and the next due time.
create index market_jobs_due on market_jobs (run_at) where status = 'deferred';
-- Serves rescue.
create index market_jobs_leases on market_jobs (lease_expires_at) where status = 'running';
-- Serves prune.
create index market_jobs_finished on market_jobs (completed_at) where status in ('done', 'failed');
-- Serves market_dead_letters and market_retry.
create index market_jobs_failed on market_jobs (provider, error_code) where status = 'failed';
-- Serves the look-ups of a target's last job by market_why and market_retry.
create index market_jobs_history on market_jobs (dedupe_key, id desc) where status in ('done', 'failed');

create table market_job_requests (
  request_id bigint generated always as identity primary key,
  job_id bigint not null,
  user_id text,
  priority int not null,
  not_before timestamptz,
  requested_at timestamptz not null default clock_timestamp(),
  opened boolean not null default false,  -- the job was made for it, not merely joined
  raised boolean not null default false,  -- it had a greater priority than the job, and its asker was told so
  folded boolean not null default true,   -- false: the job ran or somebody held its row, which does not know of this request yet
  loose boolean not null default false,   -- made without holding the job's row: may be committed after the job has ended
  served boolean not null default false   -- of loose ones only: all else is answered with its job
);
create index market_job_requests_job on market_job_requests (job_id, requested_at);
-- Serves fold.
create index market_job_requests_unfolded on market_job_requests (job_id) where not folded;
-- Serves settle and reopen. Few rows are in it: those that came while the job's row was in other hands.
create index market_job_requests_loose on market_job_requests (job_id, requested_at) where loose and not served;
-- Serves prune: those that joined a job and that it knows of.
create index market_job_requests_joined on market_job_requests (requested_at) where not opened and folded and (served or not loose);
comment on table market_job_requests is
  'Who asked for a job and when. A merge writes here and leaves a running job''s own row alone; no foreign key, which would lock it.';

create table market_fetches (
  unit_key text primary key,
  provider text not null,
  account text not null,
  sku text not null,
  currency text not null,
  lease_id uuid not null,
  lease_expires_at timestamptz not null,
  locked_by uuid not null,
  claimed_at timestamptz not null
) with (
  fillfactor = 50,   -- a row comes and goes with every fetch
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 1
);
comment on table market_fetches is 'Units being fetched: one row each, so that at most one fetch is in flight per unit over all daemons.';

create table market_products (
  provider text not null,
  product_id text not null,
  style_code text,
  name text,
  brand text,
  category text,
  gender text,
  image_url text,
  url text,
  details jsonb not null default '{}',
  updated_at timestamptz not null default clock_timestamp(),
  primary key (provider, product_id)
);
create table market_skus (
  provider text not null,
  sku text not null,
  product_id text not null,
  mapped_at timestamptz not null default clock_timestamp(),
  primary key (sku, provider)             -- in this order for claim, which reads what every provider found
);
create index market_skus_product on market_skus (provider, product_id);
comment on table market_skus is 'Which product a sku was found to be, per provider.';
create table market_variants (
  provider text not null,
  product_id text not null,
  variant_id text not null,
  size text,
  chart jsonb not null default '{}',
  gtins text[] not null default '{}',
  updated_at timestamptz not null default clock_timestamp(),
  primary key (provider, product_id, variant_id)
);

create table market_prices (
  price_id bigint generated always as identity primary key,  -- for who follows changes: Supabase Realtime sends none without a key
  provider text not null,
  account text not null default 'default',
  sku text not null,
  size text,                              -- the provider's own US size; null for single-size items
  currency text not null,
  product_id text,
  lowest_ask numeric check (lowest_ask > 0),
  highest_bid numeric check (highest_bid > 0),
  last_sale numeric check (last_sale > 0),
  last_sale_at timestamptz,
  sales_72h int,
  basis jsonb not null default '{}',
  observed_at timestamptz not null,
  changed_at timestamptz not null,
  updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 80);
-- In this order it also serves claim, which reads what other providers ask for an item.
create unique index market_prices_key on market_prices (sku, currency, provider, account, coalesce(size, ''));
comment on table market_prices is 'The present price of each size. NULL = the provider says there is none.';

create table market_price_history (
  provider text not null,
  account text not null default 'default',
  sku text not null,
  size text,
  currency text not null,
  lowest_ask numeric,
  highest_bid numeric,
  last_sale numeric,
  basis jsonb not null default '{}',
  observed_at timestamptz not null
);
create unique index market_price_history_key
  on market_price_history (provider, account, sku, coalesce(size, ''), currency, observed_at);
-- Serves prune. The table only grows at its end, in the order of this column, which is what a block range index is for.
create index market_price_history_age on market_price_history using brin (observed_at) with (pages_per_range = 32, autosummarize = on);
comment on table market_price_history is 'A row per change.';
-- Else Postgres refuses each delete while somebody publishes this table. An index of a key would cost each insert; this costs
-- the WAL of a row that is pruned, and that only with wal_level = logical.
alter table market_price_history replica identity full;

create table market_job_runs (
  run_id bigint generated always as identity primary key,
  trigger text not null default 'timer',
  started_at timestamptz not null default clock_timestamp(),
  completed_at timestamptz,
  jobs_selected int not null default 0,
  jobs_succeeded int not null default 0,
  jobs_failed int not null default 0,
  jobs_deferred int not null default 0,
  error text
);
create index market_job_runs_started on market_job_runs (started_at desc);
comment on table market_job_runs is 'One row per pass of the scheduler; the job counts are of the time since the pass before.';

create table market_provider_metrics (
  provider text not null,
  account text not null default 'default',
  window_start timestamptz not null,      -- clock hour, UTC
  requests int not null default 0,
  succeeded int not null default 0,
  throttled int not null default 0,
  failed int not null default 0,
  took_s double precision not null default 0,
  primary key (provider, account, window_start)
);
comment on table market_provider_metrics is 'Requests per provider account and hour.';
