-- Written by `make schema` from sql/migrations; for reading, never to be applied.

create type market__answer as (
  ord integer,
  place integer,
  wish market__wish
);

create type market__candidate as (
  unit_key text,
  waiting boolean,
  gain double precision,
  value double precision,
  units bigint,
  view_rate double precision,
  fresh_rate double precision,
  priced_rate double precision,
  aged_rate double precision
);

create type market__lane as (
  provider text,
  account text,
  urgent boolean,
  wake_priority integer,
  alive boolean,
  first_calls integer,
  reason text,
  words text,
  until timestamp with time zone,
  calls_left integer,
  hour_quota integer,
  hour_ends timestamp with time zone,
  hour_s double precision,
  day_left integer,
  day_quota integer,
  day_ends timestamp with time zone,
  pace_s double precision,
  step_s double precision,
  next_step_s double precision
);

create type market__limits as (
  hour integer,
  day integer,
  pace_s double precision
);

create type market__opened as (
  job_id bigint,
  result text,
  status text,
  run_at timestamp with time zone,
  retry_at timestamp with time zone,
  overridden_at timestamp with time zone,
  max_attempts integer,
  turn bigint,
  urgent boolean,
  known boolean
);

create type market__taken as (
  ord integer,
  w market__wish,
  id bigint,
  result text,
  status text,
  run_at timestamp with time zone,
  cooling boolean,
  turn bigint
);

create type market__wish as (
  provider text,
  account text,
  sku text,
  size text,
  currency text,
  dedupe_key text,
  unit_key text,
  priority integer,
  not_before timestamp with time zone,
  user_id text,
  problem text
);

create type market__worth as (
  unit_key text,
  gain double precision,
  value double precision
);

create table market_account_users (
  provider text not null,
  user_id text not null,
  account text not null,
  constraint market_account_users_pkey PRIMARY KEY (provider, user_id)
);
comment on table market_account_users is 'Whose jobs go through which account; anyone else uses ''default''.';

create table market_budgets (
  provider text not null,
  account text default 'default'::text not null,
  window_kind text not null,
  window_start timestamp with time zone not null,
  window_end timestamp with time zone not null,
  used integer default 0 not null,
  used_background integer default 0 not null,
  carried integer default 0 not null,
  given_back integer default 0 not null,
  refused integer default 0 not null,
  background_tokens double precision,
  background_at timestamp with time zone,
  quota integer,
  constraint market_budgets_pkey PRIMARY KEY (provider, account, window_kind, window_start),
  constraint market_budgets_used_background_check CHECK (used_background >= 0),
  constraint market_budgets_used_check CHECK (used >= 0),
  constraint market_budgets_window_kind_check CHECK (window_kind = ANY (ARRAY['hour'::text, 'day'::text, 'mints'::text, 'reports'::text]))
) with (fillfactor=50);
comment on table market_budgets is 'Calls charged per window, each before it was sent.';

create table market_daemons (
  daemon_id uuid not null,
  host text not null,
  pid integer not null,
  version text not null,
  kind text default 'run'::text not null,
  config_hash text not null,
  quotas jsonb default '{}'::jsonb not null,
  started_at timestamp with time zone default clock_timestamp() not null,
  alive_until timestamp with time zone not null,
  died_at timestamp with time zone,
  reload_refused text,
  constraint market_daemons_pkey PRIMARY KEY (daemon_id),
  constraint market_daemons_kind_check CHECK (kind = ANY (ARRAY['run'::text, 'tick'::text]))
);
comment on table market_daemons is 'Live daemons. A row whose alive_until is past is dead.';

create table market_fetches (
  unit_key text not null,
  provider text not null,
  account text not null,
  sku text not null,
  currency text not null,
  lease_id uuid not null,
  lease_expires_at timestamp with time zone not null,
  locked_by uuid not null,
  claimed_at timestamp with time zone not null,
  constraint market_fetches_pkey PRIMARY KEY (unit_key)
) with (fillfactor=50, autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_threshold=200, autovacuum_vacuum_cost_delay=1);
comment on table market_fetches is 'Units being fetched: one row each, so that at most one fetch is in flight per unit over all daemons.';

create table market_grants (
  provider text not null,
  account text not null,
  send_at timestamp with time zone not null,
  grant_id bigint generated always as identity not null,
  constraint market_grants_pkey PRIMARY KEY (grant_id)
);
comment on table market_grants is 'One row per call of the last hour, for providers with a rolling window only.';
CREATE INDEX market_grants_rolling ON market_grants USING btree (provider, account, send_at);

create table market_job_requests (
  request_id bigint generated always as identity not null,
  job_id bigint not null,
  user_id text,
  priority integer not null,
  not_before timestamp with time zone,
  requested_at timestamp with time zone default clock_timestamp() not null,
  opened boolean default false not null,
  raised boolean default false not null,
  folded boolean default true not null,
  loose boolean default false not null,
  served boolean default false not null,
  constraint market_job_requests_pkey PRIMARY KEY (request_id)
);
comment on table market_job_requests is 'Who asked for a job and when. A merge writes here and leaves a running job''s own row alone; no foreign key, which would lock it.';
CREATE INDEX market_job_requests_job ON market_job_requests USING btree (job_id, requested_at);
CREATE INDEX market_job_requests_joined ON market_job_requests USING btree (requested_at) WHERE ((NOT opened) AND folded AND (served OR (NOT loose)));
CREATE INDEX market_job_requests_loose ON market_job_requests USING btree (job_id, requested_at) WHERE (loose AND (NOT served));
CREATE INDEX market_job_requests_unfolded ON market_job_requests USING btree (job_id) WHERE (NOT folded);

create table market_job_runs (
  run_id bigint generated always as identity not null,
  trigger text default 'timer'::text not null,
  started_at timestamp with time zone default clock_timestamp() not null,
  completed_at timestamp with time zone,
  jobs_selected integer default 0 not null,
  jobs_succeeded integer default 0 not null,
  jobs_failed integer default 0 not null,
  jobs_deferred integer default 0 not null,
  error text,
  constraint market_job_runs_pkey PRIMARY KEY (run_id)
);
comment on table market_job_runs is 'One row per pass of the scheduler; the job counts are of the time since the pass before.';
CREATE INDEX market_job_runs_started ON market_job_runs USING btree (started_at DESC);

create table market_jobs (
  id bigint generated always as identity not null,
  provider text not null,
  account text default 'default'::text not null,
  sku text not null,
  size text,
  currency text not null,
  priority integer default 100 not null,
  status text default 'pending'::text not null,
  not_before timestamp with time zone,
  retry_at timestamp with time zone,
  run_at timestamp with time zone default now() not null,
  rank double precision default 0 not null,
  turn bigint default 0 not null,
  attempt integer default 0 not null,
  max_attempts integer default 5 not null,
  rescues integer default 0 not null,
  suspect_since timestamp with time zone,
  lead boolean default false not null,
  lease_id uuid,
  lease_expires_at timestamp with time zone,
  locked_by uuid,
  user_id text,
  error_code text,
  error_message text,
  outcome text,
  overridden_at timestamp with time zone,
  created_at timestamp with time zone default clock_timestamp() not null,
  started_at timestamp with time zone,
  completed_at timestamp with time zone,
  updated_at timestamp with time zone default clock_timestamp() not null,
  dedupe_key text not null,
  unit_key text not null,
  constraint market_jobs_pkey PRIMARY KEY (id),
  constraint done_has_outcome CHECK (status <> 'done'::text OR outcome IS NOT NULL),
  constraint failed_has_reason CHECK (status <> 'failed'::text OR error_code IS NOT NULL),
  constraint finished_iff_final CHECK ((status = ANY (ARRAY['done'::text, 'failed'::text])) = (completed_at IS NOT NULL)),
  constraint lease_iff_running CHECK ((status = 'running'::text) = (lease_id IS NOT NULL AND lease_expires_at IS NOT NULL)),
  constraint priority_range CHECK (priority >= 0 AND priority <= 1000),
  constraint status_known CHECK (status = ANY (ARRAY['pending'::text, 'running'::text, 'deferred'::text, 'done'::text, 'failed'::text]))
) with (fillfactor=70, autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_threshold=200, autovacuum_analyze_scale_factor=0.02, autovacuum_analyze_threshold=200, autovacuum_vacuum_cost_delay=1);
comment on table market_jobs is 'One request to refresh a target: pending -> running -> done | failed, and deferred (waiting for a time).';
CREATE INDEX market_jobs_due ON market_jobs USING btree (run_at) WHERE (status = 'deferred'::text);
CREATE INDEX market_jobs_failed ON market_jobs USING btree (provider, error_code) WHERE (status = 'failed'::text);
CREATE INDEX market_jobs_finished ON market_jobs USING btree (completed_at) WHERE (status = ANY (ARRAY['done'::text, 'failed'::text]));
CREATE INDEX market_jobs_history ON market_jobs USING btree (dedupe_key, id DESC) WHERE (status = ANY (ARRAY['done'::text, 'failed'::text]));
CREATE INDEX market_jobs_leases ON market_jobs USING btree (lease_expires_at) WHERE (status = 'running'::text);
CREATE INDEX market_jobs_mates ON market_jobs USING btree (unit_key) WHERE (status = 'pending'::text);
CREATE UNIQUE INDEX market_jobs_open ON market_jobs USING btree (dedupe_key) WHERE (status = ANY (ARRAY['pending'::text, 'running'::text, 'deferred'::text]));
CREATE INDEX market_jobs_ready ON market_jobs USING btree (provider, account, priority DESC, rank DESC, turn, run_at, id) WHERE (status = 'pending'::text);
CREATE INDEX market_jobs_turns ON market_jobs USING btree (hashtextextended(((((provider || '|'::text) || account) || '|'::text) || COALESCE(user_id, ''::text)), (priority)::bigint), turn) WHERE (status = 'pending'::text);
CREATE TRIGGER plain_insert BEFORE INSERT ON market_jobs FOR EACH ROW WHEN (new.unit_key IS NULL) EXECUTE FUNCTION market__plain_insert();

create table market_planner (
  only_row boolean default true not null,
  enabled boolean default true not null,
  kappa double precision default 0.05 not null,
  lane double precision default 0.02 not null,
  memory_h double precision default 168 not null,
  size_weight double precision default 0.2 not null,
  prior_a double precision default 0.5 not null,
  prior_b_h double precision default 12 not null,
  evidence_cap double precision default 10 not null,
  slowest_h double precision default 4320 not null,
  constraint market_planner_pkey PRIMARY KEY (only_row),
  constraint market_planner_only_row_check CHECK (only_row)
);
comment on table market_planner is 'The dials of config.yaml''s planner section; written by the daemon at start and SIGHUP.';

create table market_plans (
  provider text not null,
  account text not null,
  planned_at timestamp with time zone not null,
  share double precision not null,
  waiting integer default 0 not null,
  inserted integer default 0 not null,
  view_rate double precision default 0 not null,
  fresh_rate double precision default 0 not null,
  priced_rate double precision default 0 not null,
  aged_rate double precision default 0 not null,
  typical_view_rate double precision default (1.0 / (24)::numeric) not null,
  marginal_gain double precision default 0 not null,
  marginal_value double precision default 0 not null,
  search_from double precision,
  units integer default 0 not null,
  took_ms double precision default 0 not null,
  constraint market_plans_pkey PRIMARY KEY (provider, account)
);
comment on table market_plans is 'The planner''s last pass per provider account.';

create table market_price_history (
  provider text not null,
  account text default 'default'::text not null,
  sku text not null,
  size text,
  currency text not null,
  lowest_ask numeric,
  highest_bid numeric,
  last_sale numeric,
  basis jsonb default '{}'::jsonb not null,
  observed_at timestamp with time zone not null
);
comment on table market_price_history is 'A row per change.';
CREATE INDEX market_price_history_age ON market_price_history USING brin (observed_at) WITH (pages_per_range='32', autosummarize='on');
CREATE UNIQUE INDEX market_price_history_key ON market_price_history USING btree (provider, account, sku, COALESCE(size, ''::text), currency, observed_at);

create table market_prices (
  price_id bigint generated always as identity not null,
  provider text not null,
  account text default 'default'::text not null,
  sku text not null,
  size text,
  currency text not null,
  product_id text,
  lowest_ask numeric,
  highest_bid numeric,
  last_sale numeric,
  last_sale_at timestamp with time zone,
  sales_72h integer,
  basis jsonb default '{}'::jsonb not null,
  observed_at timestamp with time zone not null,
  changed_at timestamp with time zone not null,
  updated_at timestamp with time zone default clock_timestamp() not null,
  parser integer default 1 not null,
  constraint market_prices_pkey PRIMARY KEY (price_id),
  constraint market_prices_highest_bid_check CHECK (highest_bid > 0::numeric),
  constraint market_prices_last_sale_check CHECK (last_sale > 0::numeric),
  constraint market_prices_lowest_ask_check CHECK (lowest_ask > 0::numeric)
) with (fillfactor=80);
comment on table market_prices is 'The present price of each size. NULL = the provider says there is none.';
CREATE UNIQUE INDEX market_prices_key ON market_prices USING btree (sku, currency, provider, account, COALESCE(size, ''::text));

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
  details jsonb default '{}'::jsonb not null,
  updated_at timestamp with time zone default clock_timestamp() not null,
  constraint market_products_pkey PRIMARY KEY (provider, product_id)
);

create table market_provider_metrics (
  provider text not null,
  account text default 'default'::text not null,
  window_start timestamp with time zone not null,
  requests integer default 0 not null,
  succeeded integer default 0 not null,
  throttled integer default 0 not null,
  failed integer default 0 not null,
  took_s double precision default 0 not null,
  constraint market_provider_metrics_pkey PRIMARY KEY (provider, account, window_start)
);
comment on table market_provider_metrics is 'Requests per provider account and hour.';

create table market_providers (
  provider text not null,
  account text default 'default'::text not null,
  enabled boolean default true not null,
  off_reason text,
  all_sizes boolean default true not null,
  images boolean default false not null,
  first_calls integer default 1 not null,
  currency text default 'USD'::text not null,
  currencies text[] default '{}'::text[] not null,
  quota_hour integer,
  quota_day integer,
  day_zone text default 'UTC'::text not null,
  day_start time without time zone default '00:00:00'::time without time zone not null,
  rolling boolean default false not null,
  reserve double precision,
  background_min double precision default 0.05 not null,
  pace_s double precision default 1 not null,
  on_demand_per_h double precision default 0 not null,
  circuit_after integer default 5 not null,
  circuit_open_s double precision default 30 not null,
  paused_at timestamp with time zone,
  paused_reason text,
  circuit text default 'closed'::text not null,
  circuit_reason text,
  circuit_until timestamp with time zone,
  circuit_detail text,
  circuit_day_spent boolean default false not null,
  circuit_probe bigint default 0 not null,
  circuit_prober uuid,
  circuit_failures integer default 0 not null,
  circuit_opens integer default 0 not null,
  next_request_at timestamp with time zone default '-infinity'::timestamp with time zone not null,
  reported_remaining integer,
  reported_at timestamp with time zone,
  reported_drift integer,
  constraint market_providers_pkey PRIMARY KEY (provider, account),
  constraint circuit_reason_iff_not_closed CHECK ((circuit = 'closed'::text) = (circuit_reason IS NULL)),
  constraint market_providers_background_min_check CHECK (background_min >= 0::double precision AND background_min <= 1::double precision),
  constraint market_providers_circuit_check CHECK (circuit = ANY (ARRAY['closed'::text, 'open'::text, 'half_open'::text])),
  constraint market_providers_circuit_reason_check CHECK (circuit_reason = ANY (ARRAY['throttled'::text, 'unauthorized'::text, 'errors'::text])),
  constraint market_providers_currency_check CHECK (currency ~ '^[A-Z]{3}$'::text),
  constraint market_providers_first_calls_check CHECK (first_calls > 0),
  constraint market_providers_pace_s_check CHECK (pace_s >= 0::double precision),
  constraint market_providers_quota_day_check CHECK (quota_day >= 0),
  constraint market_providers_quota_hour_check CHECK (quota_hour >= 0),
  constraint market_providers_reserve_check CHECK (reserve >= 0::double precision AND reserve <= 1::double precision)
) with (fillfactor=50);
comment on table market_providers is 'One row per provider account: limits, operator pause, circuit and cool-down, pace. Takers of a call lock it.';

create table market_rates (
  provider text not null,
  account text not null,
  sku text not null,
  a double precision not null,
  b double precision not null,
  constraint market_rates_pkey PRIMARY KEY (provider, account, sku)
) with (fillfactor=70);
comment on table market_rates is 'How often a size of a product changes its price: Gamma(a, b) belief, learned from fetches.';

create table market_requests (
  request_id bigint generated always as identity not null,
  provider text not null,
  account text not null,
  endpoint text not null,
  priority integer not null,
  granted_at timestamp with time zone not null,
  status_class text not null,
  http_status integer,
  took_s double precision not null,
  given_back boolean default false not null,
  meter text default 'calls'::text not null,
  cost_window timestamp with time zone,
  useful boolean,
  wasted_reason text,
  constraint market_requests_pkey PRIMARY KEY (request_id),
  constraint wasted_has_reason CHECK ((useful IS FALSE) = (wasted_reason IS NOT NULL))
);
comment on table market_requests is 'The call record: where the budget went. Written in bulk, kept some days.';
CREATE INDEX market_requests_recent ON market_requests USING btree (granted_at, provider);

create table market_run_wish (
  only_row boolean default true not null,
  asked_at timestamp with time zone default '-infinity'::timestamp with time zone not null,
  constraint market_run_wish_pkey PRIMARY KEY (only_row),
  constraint market_run_wish_only_row_check CHECK (only_row)
);
comment on table market_run_wish is 'When somebody last asked for a pass (market_run_now).';

create table market_schema (
  version integer not null,
  name text not null,
  sha256 text not null,
  applied_at timestamp with time zone default clock_timestamp() not null,
  took_ms integer not null,
  constraint market_schema_pkey PRIMARY KEY (version)
);

create table market_settings (
  only_row boolean default true not null,
  fresh_for interval default '00:10:00'::interval not null,
  wake_priority integer default 150 not null,
  max_attempts integer default 5 not null,
  max_rescues integer default 3 not null,
  default_size_system text default 'us'::text not null,
  hour_s double precision default 3600 not null,
  day_s double precision,
  fallback_images jsonb default '{"default": "/images/fallback/default.svg", "sneakers": "/images/fallback/sneakers.svg", "collectibles": "/images/fallback/collectibles.svg", "trading_cards": "/images/fallback/trading-cards.svg"}'::jsonb not null,
  config_hash text,
  run_started_at timestamp with time zone,
  updated_at timestamp with time zone default now() not null,
  constraint market_settings_pkey PRIMARY KEY (only_row),
  constraint market_settings_day_s_check CHECK (day_s > 0::double precision),
  constraint market_settings_default_size_system_check CHECK (default_size_system = ANY (ARRAY['us'::text, 'uk'::text, 'eu'::text])),
  constraint market_settings_hour_s_check CHECK (hour_s > 0::double precision),
  constraint market_settings_max_attempts_check CHECK (max_attempts > 0),
  constraint market_settings_max_rescues_check CHECK (max_rescues > 0),
  constraint market_settings_only_row_check CHECK (only_row)
);
comment on table market_settings is 'What the SQL functions need to know of config.yaml; written by the daemon at start and SIGHUP.';

create table market_signals (
  signal_id bigint generated always as identity not null,
  kind text not null,
  provider text not null,
  account text not null,
  sku text not null,
  size text,
  currency text not null,
  dedupe_key text not null,
  unit_key text not null,
  user_id text default ''::text not null,
  at timestamp with time zone default clock_timestamp() not null,
  folded_at timestamp with time zone,
  constraint market_signals_kind_check CHECK (kind = ANY (ARRAY['watch'::text, 'view'::text]))
);
comment on table market_signals is 'Views, and word of changed watches, until the planner''s pass has folded them into market_units. Apps only append.';
CREATE INDEX market_signals_folded ON market_signals USING btree (folded_at) WHERE (folded_at IS NOT NULL);
CREATE INDEX market_signals_open ON market_signals USING btree (signal_id) WHERE (folded_at IS NULL);
CREATE INDEX market_signals_views ON market_signals USING btree (dedupe_key, user_id, at) WHERE (kind = 'view'::text);

create table market_skus (
  provider text not null,
  sku text not null,
  product_id text not null,
  mapped_at timestamp with time zone default clock_timestamp() not null,
  constraint market_skus_pkey PRIMARY KEY (sku, provider)
);
comment on table market_skus is 'Which product a sku was found to be, per provider.';
CREATE INDEX market_skus_product ON market_skus USING btree (provider, product_id);

create table market_targets (
  provider text not null,
  account text not null,
  sku text not null,
  size text,
  currency text not null,
  dedupe_key text not null,
  unit_key text not null,
  price_size text,
  last_outcome text,
  observed_at timestamp with time zone,
  last_success_at timestamp with time zone,
  last_attempt_at timestamp with time zone,
  last_error_at timestamp with time zone,
  last_error_code text,
  last_error_message text,
  retry_at timestamp with time zone,
  overridden_at timestamp with time zone,
  created_at timestamp with time zone default clock_timestamp() not null,
  constraint market_targets_pkey PRIMARY KEY (dedupe_key)
) with (fillfactor=50, autovacuum_vacuum_scale_factor=0.05, autovacuum_analyze_scale_factor=0.05, autovacuum_vacuum_cost_delay=1);
comment on table market_targets is 'Everything ever asked: one row per provider, account, sku, size, currency. Jobs come and go.';
CREATE INDEX market_targets_sku ON market_targets USING btree (sku);

create table market_units (
  unit_key text not null,
  provider text not null,
  account text not null,
  sku text not null,
  size text,
  currency text not null,
  sizes integer default 0 not null,
  views double precision default 0 not null,
  views_at timestamp with time zone not null,
  tracked_since timestamp with time zone not null,
  last_fetch_at timestamp with time zone,
  not_before timestamp with time zone default '-infinity'::timestamp with time zone not null,
  fails integer default 0 not null,
  a double precision,
  b double precision,
  constraint market_units_pkey PRIMARY KEY (unit_key)
) with (fillfactor=70);
comment on table market_units is 'What one call refreshes, with what the planner needs to know of it.';
CREATE INDEX market_units_left ON market_units USING btree (views_at) WHERE (sizes = 0);
CREATE INDEX market_units_oldest ON market_units USING btree (provider, account, last_fetch_at NULLS FIRST) WHERE (sizes > 0);
CREATE INDEX market_units_product ON market_units USING btree (provider, account, sku);

create table market_variants (
  provider text not null,
  product_id text not null,
  variant_id text not null,
  size text,
  chart jsonb default '{}'::jsonb not null,
  gtins text[] default '{}'::text[] not null,
  updated_at timestamp with time zone default clock_timestamp() not null,
  constraint market_variants_pkey PRIMARY KEY (provider, product_id, variant_id)
);

create table market_watches (
  dedupe_key text not null,
  user_id text default ''::text not null,
  provider text not null,
  account text not null,
  sku text not null,
  size text,
  currency text not null,
  unit_key text not null,
  since timestamp with time zone default clock_timestamp() not null,
  constraint market_watches_pkey PRIMARY KEY (dedupe_key, user_id)
);
comment on table market_watches is 'Items whose prices are kept fresh without being asked for. Written by apps; the daemon moves them to their users'' accounts.';
CREATE INDEX market_watches_unit ON market_watches USING btree (unit_key);

create view market__price_status (
  provider text,
  account text,
  sku text,
  size text,
  price_size text,
  currency text,
  lowest_ask numeric,
  highest_bid numeric,
  last_sale numeric,
  last_sale_at timestamp with time zone,
  basis jsonb,
  observed_at timestamp with time zone,
  age_s double precision,
  last_success_at timestamp with time zone,
  last_success_age_s double precision,
  last_attempt_at timestamp with time zone,
  last_error_at timestamp with time zone,
  last_error_code text,
  last_error_message text,
  job_id bigint,
  job_status text,
  job_priority integer,
  queued boolean,
  running boolean,
  rate_limited_until timestamp with time zone,
  state text,
  cooldown_until timestamp with time zone
);

create view market_budget_status (
  provider text,
  account text,
  window_kind text,
  window_start timestamp with time zone,
  window_end timestamp with time zone,
  quota integer,
  used integer,
  remaining integer,
  urgent_left integer,
  background_left integer,
  used_background integer,
  given_back integer,
  refused integer,
  over integer,
  resets_in_s double precision,
  lane_state text,
  until timestamp with time zone,
  reason text,
  background_waits_for text,
  background_until timestamp with time zone
);

create view market_catalog (
  sku text,
  name text,
  brand text,
  category text,
  gender text,
  image_url text,
  image text,
  image_is_fallback boolean
);

create view market_dead_letters (
  id bigint,
  provider text,
  account text,
  sku text,
  size text,
  currency text,
  priority integer,
  user_id text,
  attempt integer,
  rescues integer,
  error_code text,
  error_message text,
  created_at timestamp with time zone,
  completed_at timestamp with time zone
);

create view market_freshness (
  provider text,
  account text,
  planned_at timestamp with time zone,
  units integer,
  view_rate double precision,
  freshness double precision,
  view_age_s double precision,
  views_per_call double precision,
  share double precision,
  waiting integer,
  inserted integer,
  took_ms double precision,
  points_for_ten_percent double precision,
  advice text
);

create view market_price_status (
  provider text,
  account text,
  sku text,
  size text,
  price_size text,
  currency text,
  lowest_ask numeric,
  highest_bid numeric,
  last_sale numeric,
  last_sale_at timestamp with time zone,
  basis jsonb,
  observed_at timestamp with time zone,
  age_s double precision,
  last_success_at timestamp with time zone,
  last_success_age_s double precision,
  last_attempt_at timestamp with time zone,
  last_error_at timestamp with time zone,
  last_error_code text,
  last_error_message text,
  job_id bigint,
  job_status text,
  job_priority integer,
  queued boolean,
  running boolean,
  rate_limited_until timestamp with time zone,
  state text,
  cooldown_until timestamp with time zone,
  freshness double precision,
  watched boolean,
  next_refresh_at timestamp with time zone
);

create view market_queue_status (
  provider text,
  account text,
  status text,
  band text,
  jobs bigint,
  oldest_due_at timestamp with time zone,
  oldest_ready_s double precision
);

create view market_request_audit (
  provider text,
  account text,
  hour timestamp with time zone,
  meter text,
  cost_window timestamp with time zone,
  endpoint text,
  band text,
  status_class text,
  requests bigint,
  given_back bigint,
  useful bigint,
  wasted bigint,
  wasted_reason text,
  mean_s double precision
);

create view stockx_market_prices (
  sku text,
  size text,
  currency text,
  product_id text,
  lowest_ask numeric,
  highest_bid numeric,
  last_sale numeric,
  observed_at timestamp with time zone,
  updated_at timestamp with time zone
);

CREATE OR REPLACE FUNCTION market__ahead(j market_jobs, l market__lane, p_count_to integer, OUT jobs integer, OUT urgent_calls integer, OUT other_calls integer)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
AS $function$
declare h market_jobs; units text[]; skus text[]; urgent boolean[];
begin
  -- A range of one key in its own order: no other index has that, even where the statement was planned with an empty queue.
  select * into h from (select m.* from market_jobs m where m.unit_key >= j.unit_key and m.unit_key <= j.unit_key
                           and m.status = 'pending' order by m.unit_key offset 0) m
   order by m.priority desc, m.rank desc, m.turn, m.run_at, m.id limit 1;
  if not found then
    h := j;
  end if;
  -- Three ranges of market_jobs_ready: its order has both directions, so one row comparison does not express it.
  -- The ORDER BYs are hints only: they make any other index a bad bargain.
  select count(*), array_agg(x.unit_key), array_agg(x.sku), array_agg(x.priority >= l.wake_priority)
    into jobs, units, skus, urgent from (
    (select o.unit_key, o.sku, o.priority from market_jobs o where o.provider = h.provider and o.account = h.account
        and o.status = 'pending' and o.priority > h.priority order by o.priority desc limit p_count_to + 1)
    union all
    (select o.unit_key, o.sku, o.priority from market_jobs o where o.provider = h.provider and o.account = h.account
        and o.status = 'pending' and o.priority = h.priority and o.rank > h.rank order by o.rank desc limit p_count_to + 1)
    union all
    (select o.unit_key, o.sku, o.priority from market_jobs o where o.provider = h.provider and o.account = h.account
        and o.status = 'pending' and o.priority = h.priority and o.rank = h.rank
        and (o.turn, o.run_at, o.id) < (h.turn, h.run_at, h.id) order by o.turn limit p_count_to + 1)
    limit p_count_to + 1) x;
  urgent_calls := 0;
  other_calls := 0;
  if jobs between 1 and p_count_to then
    select coalesce(sum(u.calls) filter (where u.urgent), 0), coalesce(sum(u.calls) filter (where not u.urgent), 0)
      into urgent_calls, other_calls from (
      select bool_or(x.urgent) as urgent,
             case when l.first_calls = 1 or exists (select from market_skus k where k.provider = h.provider and k.sku = min(x.sku))
                  then 1 else l.first_calls end as calls
        from unnest(units, skus, urgent) x(unit_key, sku, urgent) group by x.unit_key) u;
  end if;
end $function$;
revoke execute on function market__ahead(market_jobs,market__lane,integer) from public;

CREATE OR REPLACE FUNCTION market__ahead_s(p market_providers, p_interval_s double precision, p_now timestamp with time zone)
 RETURNS double precision
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select case when p.next_request_at > p_now and p.next_request_at <= p_now + make_interval(secs => p_interval_s + 1)
              then date_part('epoch', p.next_request_at - p_now) else 0 end
$function$;
revoke execute on function market__ahead_s(market_providers,double precision,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__answer_s(p market_providers, p_now timestamp with time zone)
 RETURNS double precision
 LANGUAGE plpgsql
 STABLE
AS $function$
declare slots int; took_s double precision;
begin
  select sum((d.quotas -> (p.provider || '/' || p.account) ->> 'slots')::int) into slots
    from market_daemons d where d.alive_until > p_now;
  select sum(m.took_s) / nullif(sum(m.requests), 0) into took_s from market_provider_metrics m
   where m.provider = p.provider and m.account = p.account and m.window_start > p_now - interval '2 hours';
  return took_s / nullif(slots, 0);
end $function$;
revoke execute on function market__answer_s(market_providers,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__answers(p_asked market__answer[], p_done text[], p_yes text, p_no text, p_jobs boolean)
 RETURNS TABLE(ord integer, job_id bigint, result text, wait_reason text, eta timestamp with time zone, error_code text, error_message text)
 LANGUAGE plpgsql
 STABLE
AS $function$
declare a record; x record; lane market__lane;
begin
  for a in
    select q.ord, (q.wish).problem, d.key is not null as done, j.id
      from unnest(p_asked) q
      left join unnest(p_done) d(key) on d.key = (q.wish).dedupe_key and q.place = 1
      left join market_jobs j on p_jobs and j.dedupe_key = (q.wish).dedupe_key and j.status in ('pending', 'running', 'deferred')
     order by q.ord
  loop
    ord := a.ord;
    job_id := a.id;
    result := case when a.problem is not null then 'refused' when a.done then p_yes else p_no end;
    error_code := case when a.problem is not null then '22023' end;
    error_message := a.problem;
    wait_reason := null;
    eta := null;
    if a.id is not null then
      x := market__wait(a.id, lane);
      lane := x.lane;
      wait_reason := x.waiting_for;
      eta := x.eta;
    end if;
    return next;
  end loop;
end $function$;
revoke execute on function market__answers(market__answer[],text[],text,text,boolean) from public;

CREATE OR REPLACE FUNCTION market__asked(items jsonb, p_who text)
 RETURNS market__answer[]
 LANGUAGE sql
 STABLE
AS $function$
  select coalesce(array_agg((x.ord, x.place, x.wish)::market__answer order by (x.wish).dedupe_key, x.ord), '{}')
    from (select w.ord, w.wish, row_number() over (partition by (w.wish).dedupe_key order by w.ord)::int as place
            from market__wishes(items, 100, p_who) w) x
$function$;
revoke execute on function market__asked(jsonb,text) from public;

CREATE OR REPLACE FUNCTION market__background_first(p market_providers, s market_settings, p_now timestamp with time zone)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
AS $function$
declare w record; b record; head text; l market__limits; carries double precision; part double precision;
begin
  if p.background_min = 0 then
    return false;
  end if;
  select j.unit_key into head from market_jobs j
   where j.provider = p.provider and j.account = p.account and j.status = 'pending' and j.priority < s.wake_priority
   order by j.priority desc, j.rank desc, j.turn, j.run_at, j.id limit 1;
  if head is null   -- looked for first: most that is woken finds no background waiting
     or coalesce((select j.priority from market_jobs j where j.provider = p.provider and j.account = p.account
                   and j.status = 'pending' order by j.priority desc limit 1), 0) < s.wake_priority then
    return false;
  end if;
  w := market__window(p, s, 'hour', p_now);
  select m.used, m.used_background into b from market_budgets m
   where m.provider = p.provider and m.account = p.account and m.window_kind = 'hour' and m.window_start = w.starts;
  if b.used is null or date_part('epoch', w.ends - p_now) <= 0.05 * s.hour_s then
    return false;
  end if;
  l := market__limits(p);
  carries := 0.95 * s.hour_s / nullif(l.pace_s, 0);
  part := p.background_min * least(2, greatest(1, l.hour / carries));
  if b.used_background + 0.5 > part * (b.used + 1)
     or exists (select from market_fetches f where f.unit_key = head and f.lease_expires_at > p_now) then
    return false;   -- it had its part, or a fetch of its product is under way already
  end if;
  -- One that was claimed and waits for the pace is not charged yet.
  return not exists (select from market_jobs j
    where j.status = 'running' and j.provider = p.provider and j.account = p.account and j.priority < s.wake_priority
      and j.lease_expires_at > p_now);
end $function$;
revoke execute on function market__background_first(market_providers,market_settings,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__basis_kind(p_basis jsonb)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$ select coalesce(p_basis, '{}') - array['flex_ask', 'listings', 'sales_90d'] $function$;
revoke execute on function market__basis_kind(jsonb) from public;

CREATE OR REPLACE FUNCTION market__calls_since(p market_providers, p_kind text, p_from timestamp with time zone)
 RETURNS integer
 LANGUAGE sql
 STABLE
AS $function$
  with reaching as (
    select b.window_start, b.used - b.carried as calls, b.window_start < p_from as partly from market_budgets b
     where b.provider = p.provider and b.account = p.account and b.window_kind = p_kind and b.window_end > p_from
  ), before as (
    select min(r.window_start) as starts, sum(r.calls) as calls from reaching r where r.partly
  )
  select (coalesce((select sum(r.calls) from reaching r), 0)
          - case when (select count(*) from market_budgets b
                        where b.provider = p.provider and b.account = p.account and b.window_kind = p_kind
                          and b.window_start < p_from and b.window_end > e.starts) = 1
                 then least(e.calls, (select count(*) from market_requests q
                        where q.granted_at >= e.starts and q.granted_at < p_from and q.provider = p.provider
                          and q.account = p.account and not q.given_back
                          and q.meter = case when p_kind in ('hour', 'day') then 'calls' else p_kind end))
                 else 0 end)::int
    from before e
$function$;
revoke execute on function market__calls_since(market_providers,text,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__candidates(p_provider text, p_account text, p_limit integer, p_edge double precision, p_now timestamp with time zone)
 RETURNS SETOF market__candidate
 LANGUAGE sql
 STABLE
AS $function$
  with open as materialized (
    select j.unit_key, bool_or(j.status = 'pending' and j.priority < s.wake_priority) as waiting
      from market_jobs j cross join market_settings s
     where j.provider = p_provider and j.account = p_account and j.status in ('pending', 'running', 'deferred')
     group by j.unit_key
  ), scan as materialized (
    select count(*) filter (where x.sizes > 0) as units,
           sum(x.views_per_h) filter (where x.sizes > 0) as view_rate,
           sum(x.views_per_h * x.still) filter (where x.sizes > 0) as fresh_rate,
           sum(x.views_per_h) filter (where x.sizes > 0 and x.priced) as priced_rate,
           sum(x.views_per_h * x.age_h) filter (where x.sizes > 0 and x.priced) as aged_rate,
           array_agg((x.unit_key, x.gain, x.value)::market__worth)
             filter (where x.sizes > 0 and x.due and x.value >= p_edge) as best,
           array_agg((x.unit_key, x.gain, x.value)::market__worth)
             filter (where x.unit_key in (select o.unit_key from open o where o.waiting)) as waiting
      from market__values(p_provider, p_account, p_now) x
  ), best as materialized (
    select b.* from scan, unnest(scan.best) b where b.unit_key not in (select o.unit_key from open o)
  ), found as (
    (select b.*, false as waiting from best b order by b.value desc, b.unit_key limit p_limit)
    union all
    -- The guess was too high, or there was none.
    (select x.unit_key, x.gain, x.value, false from market__values(p_provider, p_account, p_now) x
      where (select count(*) from best) < p_limit and (p_edge is null or p_edge > 0) and x.sizes > 0 and x.due and (p_edge is null or x.value < p_edge)
        and x.unit_key not in (select o.unit_key from open o)
      order by x.value desc, x.unit_key limit p_limit)
    union all
    select w.*, true from scan, unnest(scan.waiting) w
  )
  select f.unit_key, f.waiting, f.gain, f.value, s.units, s.view_rate, s.fresh_rate, s.priced_rate, s.aged_rate
    from scan s left join found f on true order by f.value desc, f.unit_key
$function$;
revoke execute on function market__candidates(text,text,integer,double precision,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__carry(p market_providers, s market_settings, p_now timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare kind text; w record; reach_from timestamptz; granted int; missing int;
begin
  foreach kind in array array['hour', 'day', 'mints', 'reports'] loop
    w := market__window(p, s, case kind when 'hour' then kind else 'day' end, p_now);
    continue when not exists (
      select from market_budgets b where b.provider = p.provider and b.account = p.account and b.window_kind = kind
         and b.window_start < w.ends and b.window_end > w.starts and b.window_start <> w.starts);
    insert into market_budgets as b (provider, account, window_kind, window_start, window_end, used, carried)
    select p.provider, p.account, kind, w.starts, w.ends, c.calls, c.calls
      from market__calls_since(p, kind, w.starts) c(calls)
    on conflict (provider, account, window_kind, window_start) do update set
      used = greatest(b.used, excluded.used),
      carried = greatest(b.used, excluded.used) - (b.used - b.carried);
  end loop;
  if p.rolling then
    -- Whose hour did not roll has no grants yet: a call stands where the record has it, else now.
    reach_from := p_now - make_interval(secs => s.hour_s + 6 * market__guard(s));
    select count(*) into granted from market_grants g
     where g.provider = p.provider and g.account = p.account and g.send_at > reach_from;
    missing := least(market__calls_since(p, 'hour', reach_from), p.quota_hour) - granted;   -- more would look like an overshoot
    insert into market_grants (provider, account, send_at)
    select p.provider, p.account, coalesce(r.granted_at, p_now)
      from generate_series(1, missing) n
      left join (select q.granted_at, row_number() over (order by q.granted_at desc) as nth from market_requests q
                  where q.granted_at > reach_from and q.provider = p.provider and q.account = p.account
                    and q.meter = 'calls' and not q.given_back) r on r.nth = n;
  end if;
end $function$;
revoke execute on function market__carry(market_providers,market_settings,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__charge(p market_providers, s market_settings, p_priority integer, p_meter text, p_after text, p_now timestamp with time zone, p_daemon uuid DEFAULT NULL::uuid, p_lead_s double precision DEFAULT 0, OUT granted boolean, OUT reason text, OUT until timestamp with time zone, OUT wait_s double precision, OUT granted_at timestamp with time zone, OUT delay_s double precision, OUT valid_s double precision, OUT receipt text, OUT cost_window timestamp with time zone, OUT step_s double precision)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  v record; w record; h record; kind text; limited int; urgent boolean := p_priority >= s.wake_priority; kinds text[];
  guard double precision := market__guard(s); edge_s double precision := 0; grant_no bigint;
  tokens double precision; l market__limits; starts timestamptz[] := '{}'; ends timestamptz[] := '{}';
begin
  granted := false;
  if p.provider is null then
    reason := 'off';
    return;
  end if;
  l := market__limits(p);
  kinds := case when p_meter = 'calls' then array['hour', 'day'] else array[p_meter] end;
  if p_meter = 'calls' then
    select x.reason, x.until into reason, until from market__verdict(p, s, urgent, p_now, p_after, l) x;
    step_s := l.pace_s;
    delay_s := greatest(market__ahead_s(p, step_s, p_now), p_lead_s);
  else
    -- A report on a spent day goes to another place, and may tell that the day is over earlier.
    select x.reason, x.until into reason, until from market__closed(p, p_now, p_after) x
     where not (p_meter = 'reports' and p.circuit_day_spent and p.enabled and p.paused_at is null);
    delay_s := 0;
  end if;
  if reason is not null then
    perform market__note_refusal(p, s, reason, p_now);
    return;
  end if;
  foreach kind in array kinds loop
    limited := market__limit(l, kind);
    w := market__window(p, s, case when kind in ('mints', 'reports') then 'day' else kind end, p_now);
    starts := starts || w.starts;
    ends := ends || w.ends;
    if limited is not null then
      edge_s := greatest(edge_s, case
        when date_part('epoch', w.ends - p_now) < guard + p_lead_s then date_part('epoch', w.ends - p_now) + guard / 2
        else guard / 2 - date_part('epoch', p_now - w.starts) end);
    end if;
    select b.used, b.quota into h from market_budgets b
     where b.provider = p.provider and b.account = p.account and b.window_kind = kind and b.window_start = w.starts;
    if not found or h.quota is distinct from limited then
      insert into market_budgets (provider, account, window_kind, window_start, window_end, quota)
      values (p.provider, p.account, kind, w.starts, w.ends, limited)
      on conflict (provider, account, window_kind, window_start) do update set quota = excluded.quota;
    end if;
    if h.used >= limited then
      reason := 'budget';
      until := w.ends;
      return;
    end if;
  end loop;
  if edge_s > 0 or delay_s > p_lead_s + market__early(s) then
    reason := 'pace';
    until := p_now + make_interval(secs => greatest(edge_s, delay_s));
    wait_s := greatest(edge_s, delay_s - p_lead_s - market__early(s) / 2);   -- so that the way here and back is no lost time
    return;
  end if;
  granted_at := p_now + make_interval(secs => delay_s);
  cost_window := starts[1];
  for i in 1 .. cardinality(kinds) loop
    tokens := null;
    limited := market__limit(l, kinds[i]);
    if p_meter = 'calls' and not urgent and limited is not null then
      select x.tokens into tokens from market__shares(p, s, kinds[i], p_now, limited) x;
    end if;
    update market_budgets b set used = b.used + 1, used_background = b.used_background + (not urgent)::int,
      background_tokens = coalesce(tokens - 1, b.background_tokens),
      background_at = case when p_meter = 'calls' and not urgent then p_now else b.background_at end
     where b.provider = p.provider and b.account = p.account and b.window_kind = kinds[i] and b.window_start = starts[i];
    receipt := concat_ws(';', receipt, kinds[i] || '=' || date_part('epoch', starts[i])::text);
    valid_s := least(valid_s, date_part('epoch', ends[i] - p_now) - guard / 2);
  end loop;
  if p_meter = 'calls' then
    if p.rolling then
      insert into market_grants (provider, account, send_at) values (p.provider, p.account, granted_at)
      returning grant_id into grant_no;
      receipt := concat_ws(';', receipt, 'grant=' || grant_no);
    end if;
    update market_providers m set next_request_at = market__charge.granted_at + make_interval(secs => step_s)
     where m.provider = p.provider and m.account = p.account;
  end if;
  -- One probe over all daemons, be it a token that is asked for first; given up when its daemon dies, or when nothing is
  -- heard of it for two minutes.
  if p.circuit <> 'closed' and p_meter <> 'reports' then
    update market_providers m set circuit = 'half_open', circuit_until = p_now + interval '2 minutes',
      circuit_probe = m.circuit_probe + 1, circuit_prober = p_daemon
    where m.provider = p.provider and m.account = p.account;
    receipt := concat_ws(';', receipt, 'probe=' || p.circuit_probe + 1);
  end if;
  granted := true;
  valid_s := least(valid_s, delay_s + 5 * guard);
  receipt := concat_ws(';', p.provider, p.account, (not urgent)::int, receipt);
end $function$;
revoke execute on function market__charge(market_providers,market_settings,integer,text,text,timestamp with time zone,uuid,double precision) from public;

CREATE OR REPLACE FUNCTION market__charge_block(p market_providers, s market_settings, p_urgent boolean, p_calls integer, p_now timestamp with time zone, OUT calls integer, OUT granted_at timestamp with time zone, OUT delay_s double precision, OUT step_s double precision, OUT hold_s double precision, OUT valid_s double precision, OUT receipt text, OUT cost_window timestamp with time zone)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare v record; w record; kind text; limited int; guard double precision := market__guard(s); at_most double precision;
  free double precision; tokens double precision[] := '{}';   -- of each kind; null: background is not spread there
  l market__limits;
begin
  calls := 0;
  if p.provider is null or p.rolling or p.circuit <> 'closed' then
    return;
  end if;
  l := market__limits(p);
  select x.reason, x.calls_left into v from market__verdict(p, s, p_urgent, p_now, null, l) x;
  step_s := l.pace_s;
  delay_s := market__ahead_s(p, step_s, p_now);
  if v.reason is not null or delay_s > least(0.1, guard / 4) then
    return;
  end if;
  at_most := least(p_calls, 256, floor(0.02 / nullif(step_s, 0)), v.calls_left / 16);
  foreach kind in array array['hour', 'day'] loop
    limited := market__limit(l, kind);
    select * into w from market__window(p, s, kind, p_now);
    free := null;
    if limited is not null then
      if date_part('epoch', w.ends - p_now) < guard + 0.5 or date_part('epoch', p_now - w.starts) < guard / 2 then
        return;
      end if;
      if not p_urgent then
        select x.tokens into free from market__shares(p, s, kind, p_now, limited) x;
        at_most := least(at_most, floor(free));
      end if;
    end if;
    tokens := array_append(tokens, free);
  end loop;
  if coalesce(at_most, 0) < 2 then
    return;
  end if;
  calls := at_most::int;
  granted_at := p_now + make_interval(secs => delay_s);
  hold_s := delay_s + 0.05;
  valid_s := delay_s + 5 * guard;
  foreach kind in array array['hour', 'day'] loop
    select * into w from market__window(p, s, kind, p_now);
    cost_window := coalesce(cost_window, w.starts);
    limited := market__limit(l, kind);
    insert into market_budgets as b (provider, account, window_kind, window_start, window_end, quota)
    values (p.provider, p.account, kind, w.starts, w.ends, limited)
    on conflict (provider, account, window_kind, window_start) do update set quota = excluded.quota
      where b.quota is distinct from excluded.quota;
    valid_s := least(valid_s, date_part('epoch', w.ends - p_now) - guard / 2);
    update market_budgets b set used = b.used + calls,
      used_background = b.used_background + case when p_urgent then 0 else calls end,
      background_tokens = coalesce(tokens[1] - calls, b.background_tokens),
      background_at = case when tokens[1] is null then b.background_at else p_now end
     where b.provider = p.provider and b.account = p.account and b.window_kind = kind and b.window_start = w.starts;
    tokens := tokens[2:];
    receipt := concat_ws(';', receipt, kind || '=' || date_part('epoch', w.starts)::text);
  end loop;
  update market_providers m set next_request_at = market__charge_block.granted_at + make_interval(secs => step_s * calls)
   where m.provider = p.provider and m.account = p.account;
  receipt := concat_ws(';', p.provider, p.account, (not p_urgent)::int, receipt);
end $function$;
revoke execute on function market__charge_block(market_providers,market_settings,boolean,integer,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__check_items(items jsonb, p_caller text)
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
begin
  if items is null or jsonb_typeof(items) <> 'array' then
    raise exception '%: items is not a JSON array', p_caller using errcode = '22023';
  elsif jsonb_array_length(items) > 10000 then
    raise exception '%: items holds % entries, 10000 at most', p_caller, jsonb_array_length(items) using errcode = '22023';
  end if;
end $function$;
revoke execute on function market__check_items(jsonb,text) from public;

CREATE OR REPLACE FUNCTION market__claimable(p market_providers, s market_settings, p_now timestamp with time zone, OUT urgent boolean, OUT background boolean, OUT background_first boolean)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
AS $function$
declare kind text; h record; l market__limits := market__limits(p);
begin
  urgent := true;
  if not p.enabled or p.paused_at is not null or p.circuit <> 'closed' then
    select c.reason is null into urgent from market__closed(p, p_now, null) c;
  end if;
  if p.next_request_at > p_now + interval '5 seconds' and market__ahead_s(p, l.pace_s, p_now) > 5 then
    urgent := false;
  end if;
  background := urgent;
  foreach kind in array array['hour', 'day'] loop
    continue when not urgent and not background or market__limit(l, kind) is null;
    h := market__shares(p, s, kind, p_now, market__limit(l, kind));
    urgent := urgent and coalesce(h.urgent_from <= p_now, true);
    background := background and coalesce(coalesce(h.background_from, h.token_from) <= p_now, true);
  end loop;
  background_first := background and market__background_first(p, s, p_now);
end $function$;
revoke execute on function market__claimable(market_providers,market_settings,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__closed(p market_providers, p_now timestamp with time zone, p_after text, OUT reason text, OUT until timestamp with time zone)
 RETURNS record
 LANGUAGE sql
 STABLE
AS $function$
  select l.state, case when l.state in ('circuit', 'cooldown') then p.circuit_until end
    from market__lane_state(p) l(state)
   where l.state in ('off', 'paused')
      or l.state in ('circuit', 'cooldown') and p.circuit_until > p_now
         and not (p.circuit = 'half_open' and (
           market__is_probe(p, p_after)
           or p.circuit_prober is not null and not exists (
                select from market_daemons d where d.daemon_id = p.circuit_prober and d.alive_until > p_now)))
$function$;
revoke execute on function market__closed(market_providers,timestamp with time zone,text) from public;

CREATE OR REPLACE FUNCTION market__count_view(w market__wish)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
begin
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
  select 'view', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, '')
   where not exists (select from market_signals g where g.kind = 'view' and g.dedupe_key = w.dedupe_key
                       and g.user_id = coalesce(w.user_id, '') and g.at > clock_timestamp() - interval '10 minutes');
end $function$;
revoke execute on function market__count_view(market__wish) from public;

CREATE OR REPLACE FUNCTION market__count_views(p_wishes market__wish[], p_now timestamp with time zone DEFAULT clock_timestamp())
 RETURNS SETOF text
 LANGUAGE sql
AS $function$
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id, at)
  select distinct on (w.dedupe_key, coalesce(w.user_id, ''))
         'view', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, ''), p_now
    from unnest(p_wishes) w
   where not exists (select from market_signals g where g.kind = 'view' and g.dedupe_key = w.dedupe_key
                      and g.user_id = coalesce(w.user_id, '') and g.at > p_now - interval '10 minutes')
  returning dedupe_key
$function$;
revoke execute on function market__count_views(market__wish[],timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__due_at(p_views_per_h double precision, p_a double precision, p_b double precision, p_kappa double precision, p_fetched_at timestamp with time zone, p_edge double precision, p_now timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
declare age double precision; l double precision; x double precision; i double precision; v double precision; n int := 0;
begin
  if p_fetched_at is null then
    return p_now;
  elsif p_edge is null or p_edge <= 0 or p_views_per_h <= 0 then
    return null;
  end if;
  age := greatest(1.0 / 60, date_part('epoch', p_now - p_fetched_at) / 3600);
  loop
    l := ln(p_b / (p_b + age));
    x := (p_a - 1) * l;
    i := case when abs(x) < 1e-4 then -p_b * l * (1 + x / 2 + x * x / 6) else p_b / (p_a - 1) * (1 - exp(greatest(-600, x))) end;
    v := p_views_per_h * (greatest(0, i - age * exp(greatest(-600, p_a * l))) + p_kappa * greatest(0, age - i));
    n := n + 1;
    exit when v >= p_edge * 0.98 or n > 40 or age > 8760;
    age := least(8761, age * sqrt(p_edge / greatest(v, p_edge * 1e-12)));
  end loop;
  return greatest(p_now, p_fetched_at + make_interval(secs => age * 3600));
end $function$;
revoke execute on function market__due_at(double precision,double precision,double precision,double precision,timestamp with time zone,double precision,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__early(s market_settings)
 RETURNS double precision
 LANGUAGE sql
 IMMUTABLE
AS $function$ select least(0.02, market__guard(s) / 4) $function$;
revoke execute on function market__early(market_settings) from public;

CREATE OR REPLACE FUNCTION market__enrich(p_provider text, p_limit integer, p_after text, p_looks integer DEFAULT 2000, OUT queued integer, OUT after text)
 RETURNS record
 LANGUAGE plpgsql
 SET lock_timeout TO '20ms'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;
revoke execute on function market__enrich(text,integer,text,integer) from public;

CREATE OR REPLACE FUNCTION market__eta(l market__lane, p_urgent_calls integer, p_other_calls integer, p_now timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
declare base timestamptz := greatest(p_now, l.until); n int := p_urgent_calls + p_other_calls; left_now int;
begin
  if l.reason in ('paused', 'off') or l.hour_quota = 0 or l.day_quota = 0 then
    return null;
  end if;
  if l.day_quota is not null and base < l.day_ends and n >= greatest(1, l.day_left) then
    -- Beyond this day's calls: the rest goes on in the days to come.
    n := n - greatest(1, l.day_left);
    base := l.day_ends + (n / l.day_quota) * interval '1 day';
    n := mod(n, l.day_quota);
    return base + case when l.hour_quota is null then make_interval(secs => n * l.pace_s)
                       else make_interval(secs => (n / l.hour_quota) * l.hour_s + mod(n, l.hour_quota) * l.next_step_s) end;
  end if;
  if l.hour_quota is null or base < l.hour_ends then
    left_now := greatest(1, l.calls_left);
    if l.hour_quota is null or n < left_now then
      return base + make_interval(secs => p_urgent_calls * l.pace_s + p_other_calls * l.step_s);
    end if;
    n := n - left_now;
    base := l.hour_ends;
  end if;
  return base + make_interval(secs => (n / l.hour_quota) * l.hour_s + mod(n, l.hour_quota) * l.next_step_s);
end $function$;
revoke execute on function market__eta(market__lane,integer,integer,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__fold(p_now timestamp with time zone DEFAULT clock_timestamp(), p_limit integer DEFAULT 20000)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare n int;
begin
  if not pg_try_advisory_xact_lock(hashtext('marketd.fold')) then
    return 0;
  end if;
  with open as materialized (
    select s.signal_id, s.unit_key from market_signals s where s.folded_at is null order by s.signal_id limit p_limit
  ), free as materialized (
    -- What a settle learns about at this moment is folded the next time: both lock many units, and neither may wait with some in hand.
    select m.unit_key from market_units m where m.unit_key in (select o.unit_key from open o) for update skip locked
  ), taken as (
    update market_signals g set folded_at = p_now
     where g.signal_id in (
       select o.signal_id from open o
        where o.unit_key in (select f.unit_key from free f)
           or not exists (select from market_units m where m.unit_key = o.unit_key))
    returning g.*
  ), per_unit as (
    select t.unit_key, min(t.provider) as provider, min(t.account) as account, min(t.sku) as sku, min(t.currency) as currency,
           min(t.size) as size,
           coalesce(sum(exp(greatest(-60, -greatest(0, date_part('epoch', p_now - t.at)) / 3600 / d.memory_h)))
             filter (where t.kind = 'view' and not exists (
               select from market_signals e where e.kind = 'view' and e.dedupe_key = t.dedupe_key and e.user_id = t.user_id
                  -- These bound the walk through the index: after days without a fold a key has thousands of views.
                  and e.at > t.at - interval '10 minutes' and e.at < t.at + interval '10 minutes'
                  -- One folded before may have been committed before what now comes late.
                  and (e.folded_at is not null or e.signal_id < t.signal_id))), 0) as views
      from taken t cross join market_planner d group by t.unit_key
  ), known as (
    select x.*, p.all_sizes,
           (select count(distinct w.dedupe_key) from market_watches w where w.unit_key = x.unit_key) as sizes,
           (select max(t.observed_at) from market_targets t where t.sku = x.sku and t.unit_key = x.unit_key) as seen_at
      from per_unit x join market_providers p on p.provider = x.provider and p.account = x.account
  ), put as (
    insert into market_units as m (unit_key, provider, account, sku, size, currency, sizes, views, views_at, tracked_since,
                                   last_fetch_at, a, b)
    select k.unit_key, k.provider, k.account, k.sku, case when not k.all_sizes then k.size end, k.currency, k.sizes, k.views,
           p_now, p_now, k.seen_at, r.a, r.b
      from known k left join market_rates r using (provider, account, sku) order by k.unit_key
    on conflict (unit_key) do update set
      sizes = excluded.sizes, views_at = p_now,
      -- What only fades ends as 0, or its next fading would underflow.
      views = greatest(0, m.views * exp(greatest(-60, -greatest(0, date_part('epoch', p_now - m.views_at)) / 3600
                / (select memory_h from market_planner))) + excluded.views - 1e-12)
  )
  select count(*) into n from taken;
  delete from market_signals where folded_at < p_now - interval '30 minutes';
  -- Neither watched nor viewed for long, and nothing of it waits (whose place in the order is the unit's worth): forgotten.
  delete from market_units u
   where u.unit_key in (select m.unit_key from market_units m cross join market_planner d
                         where m.sizes = 0 and m.views_at < p_now - make_interval(hours => (4 * d.memory_h)::int)
                           and not exists (select from market_jobs j where j.unit_key = m.unit_key
                                              and j.status in ('pending', 'running', 'deferred'))
                           for update of m skip locked);
  return n;
end $function$;
revoke execute on function market__fold(timestamp with time zone,integer) from public;

CREATE OR REPLACE FUNCTION market__fold_into(j market_jobs, p_priority integer, p_not_before timestamp with time zone)
 RETURNS text
 LANGUAGE plpgsql
AS $function$
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
end $function$;
revoke execute on function market__fold_into(market_jobs,integer,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__good(p_asked market__answer[])
 RETURNS market__wish[]
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select coalesce(array_agg(a.wish order by (a.wish).dedupe_key), '{}') from unnest(p_asked) a
   where a.place = 1 and (a.wish).problem is null
$function$;
revoke execute on function market__good(market__answer[]) from public;

CREATE OR REPLACE FUNCTION market__guard(s market_settings)
 RETURNS double precision
 LANGUAGE sql
 IMMUTABLE
AS $function$ select least(1, s.hour_s / 20) $function$;
revoke execute on function market__guard(market_settings) from public;

CREATE OR REPLACE FUNCTION market__hold(w market__wish)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
declare stub bigint;
begin
  insert into market_jobs (provider, account, sku, size, currency, status, run_at, dedupe_key, unit_key)
  values (w.provider, w.account, w.sku, w.size, w.currency, 'deferred', 'infinity', w.dedupe_key, w.unit_key)
  on conflict (dedupe_key) where status in ('pending', 'running', 'deferred') do nothing returning id into stub;
  delete from market_jobs where id = stub;
  return stub is not null;
end $function$;
revoke execute on function market__hold(market__wish) from public;

CREATE OR REPLACE FUNCTION market__identity(p_user_id text DEFAULT NULL::text, p_owner name DEFAULT NULL::name)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
AS $function$
declare who text := nullif(current_setting('marketd.user_id', true), '');
begin
  if who is null and current_setting('request.jwt.claims', true) <> '' then
    begin
      who := nullif(current_setting('request.jwt.claims')::jsonb ->> 'sub', '');
    exception when invalid_text_representation or data_exception then
      raise exception 'the setting request.jwt.claims is not JSON' using errcode = '22023';
    end;
  end if;
  if market__trusted(p_owner) then
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
end $function$;
revoke execute on function market__identity(text,name) from public;

CREATE OR REPLACE FUNCTION market__image_key(p_category text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select case when p_category in ('sneakers', 'shoes') then 'sneakers' when p_category like '%card%' then 'trading_cards'
              when p_category like 'collectible%' then 'collectibles' else 'default' end
$function$;
revoke execute on function market__image_key(text) from public;

CREATE OR REPLACE FUNCTION market__is_probe(p market_providers, p_receipt text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select p.circuit = 'half_open' and coalesce(strpos(p_receipt || ';', ';probe=' || p.circuit_probe || ';') > 0, false)
$function$;
revoke execute on function market__is_probe(market_providers,text) from public;

CREATE OR REPLACE FUNCTION market__item(item jsonb, p_priority integer, p_user_id text)
 RETURNS market__wish
 LANGUAGE plpgsql
 STABLE
AS $function$
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
end $function$;
revoke execute on function market__item(jsonb,integer,text) from public;

CREATE OR REPLACE FUNCTION market__keep_listings(p_listings jsonb, p_held integer[], p_providers text[], p_skus text[])
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare n int;
begin
  with found as materialized (
    select l.*, p_providers[l.u] as provider, p_skus[l.u] as sku
      from jsonb_to_recordset(p_listings) as l(
        u int, id text, style_code text, name text, brand text, category text, gender text, image_url text, url text,
        details jsonb, variants jsonb)
     where (l.u in (select unnest(p_held))) is true
  ), listing as materialized (
    select distinct on (l.provider, l.id) l.* from found l order by l.provider, l.id, l.u desc
  ), product as (
    insert into market_products as p (provider, product_id, style_code, name, brand, category, gender, image_url, url, details)
    select provider, id, style_code, name, brand, category, gender, image_url, url, coalesce(details, '{}') from listing
     order by provider, id
    on conflict (provider, product_id) do update set
      style_code = coalesce(excluded.style_code, p.style_code), name = coalesce(excluded.name, p.name),
      brand = coalesce(excluded.brand, p.brand), category = coalesce(excluded.category, p.category),
      gender = coalesce(excluded.gender, p.gender), image_url = coalesce(excluded.image_url, p.image_url),
      url = coalesce(excluded.url, p.url), details = p.details || excluded.details, updated_at = clock_timestamp()
  ), mapped as (
    insert into market_skus (provider, sku, product_id)
    select distinct on (l.provider, l.sku) l.provider, l.sku, l.id from found l order by l.provider, l.sku, l.u desc
    on conflict (provider, sku) do update set product_id = excluded.product_id, mapped_at = clock_timestamp()
  ), variants as (
    insert into market_variants (provider, product_id, variant_id, size, chart, gtins)
    select distinct on (l.provider, l.id, v.id) l.provider, l.id, v.id, v.size, coalesce(v.chart, '{}'), coalesce(v.gtins, '{}')
      from listing l, jsonb_to_recordset(l.variants) as v(id text, size text, chart jsonb, gtins text[])
     order by l.provider, l.id, v.id
    on conflict (provider, product_id, variant_id) do update set
      size = excluded.size, chart = excluded.chart, gtins = excluded.gtins, updated_at = clock_timestamp()
  )
  select count(*) into n from listing;
  return n;
end $function$;
revoke execute on function market__keep_listings(jsonb,integer[],text[],text[]) from public;

CREATE OR REPLACE FUNCTION market__lane(p_provider text, p_account text, p_priority integer)
 RETURNS market__lane
 LANGUAGE plpgsql
 STABLE
AS $function$
declare l market__lane; p market_providers; s market_settings; v record; now_at timestamptz := clock_timestamp();
begin
  select * into s from market_settings;
  select * into p from market_providers m where m.provider = p_provider and m.account = p_account;
  l.provider := p_provider;
  l.account := p_account;
  l.wake_priority := s.wake_priority;
  l.urgent := p_priority >= s.wake_priority;
  l.alive := exists (select from market_daemons d where d.alive_until > now_at);
  if p.provider is null then
    l.reason := 'off';
    l.words := 'the account is not in the configuration any more';
    return l;
  end if;
  v := market__verdict(p, s, l.urgent, now_at);
  l.first_calls := p.first_calls;
  l.reason := v.reason;
  l.until := v.until;
  l.calls_left := v.calls_left;
  l.hour_quota := v.hour_quota;
  l.hour_ends := v.hour_ends;
  l.hour_s := s.hour_s;
  l.day_left := v.day_left;
  l.day_quota := v.day_quota;
  l.day_ends := v.day_ends;
  l.pace_s := greatest(market__pace(p), market__answer_s(p, now_at));
  l.next_step_s := greatest(l.pace_s, case when not l.urgent then 0.95 * s.hour_s / nullif(v.hour_quota, 0) end);
  l.step_s := greatest(l.pace_s, case when not l.urgent then v.spacing_s end);
  l.words := case v.reason
    when 'off' then coalesce(p.off_reason, 'the provider is switched off in the configuration')
    when 'paused' then concat_ws(': ', 'paused by an operator', p.paused_reason)
    when 'cooldown' then concat_ws(': ', case p.circuit_reason when 'unauthorized' then 'credentials were refused'
                                                               else 'the provider throttles us' end, p.circuit_detail)
    when 'circuit' then concat_ws(': ', 'the provider fails', p.circuit_detail)
    when 'budget' then format('%s calls left for %s work', coalesce(v.calls_left, 0),
                              case when l.urgent then 'urgent' else 'background' end)
    when 'pace' then 'requests are spaced' end;
  return l;
end $function$;
revoke execute on function market__lane(text,text,integer) from public;

CREATE OR REPLACE FUNCTION market__lane_state(p market_providers)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select case when not p.enabled then 'off' when p.paused_at is not null then 'paused' when p.circuit = 'closed' then 'ready'
              when p.circuit_reason = 'errors' then 'circuit' else 'cooldown' end
$function$;
revoke execute on function market__lane_state(market_providers) from public;

CREATE OR REPLACE FUNCTION market__learn(p_unit_key text, p_provider text, p_account text, p_sku text, p_fetched_at timestamp with time zone, p_gaps_h double precision[], p_changed boolean[], p_failed boolean, p_now timestamp with time zone DEFAULT clock_timestamp())
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
declare d market_planner; belief record; x double precision; y double precision; i int;
begin
  if p_fetched_at is null then
    if p_failed then
      update market_units u set fails = u.fails + 1,
        not_before = p_now + least(interval '1 hour', interval '1 minute' * 2 ^ least(u.fails + 1, 6))
       where u.unit_key = p_unit_key;
    end if;
    return false;
  end if;
  if cardinality(p_gaps_h) > 0 then
    select * into d from market_planner;
    insert into market_rates (provider, account, sku, a, b) values (p_provider, p_account, p_sku, d.prior_a, d.prior_b_h)
    on conflict do nothing;
    select r.a, r.b into x, y from market_rates r
     where r.provider = p_provider and r.account = p_account and r.sku = p_sku for no key update;
    for i in 1 .. cardinality(p_gaps_h) loop
      belief := market__learn_bit(x, y, p_gaps_h[i], p_changed[i], d);
      x := belief.a;
      y := belief.b;
    end loop;
    update market_rates r set a = x, b = y where r.provider = p_provider and r.account = p_account and r.sku = p_sku;
    -- Where each size is a unit of its own, all of them share what one has taught.
    update market_units u set a = x, b = y
     where u.provider = p_provider and u.account = p_account and u.sku = p_sku and u.unit_key <> p_unit_key
       and u.unit_key in (select n.unit_key from market_units n
                           where n.provider = p_provider and n.account = p_account and n.sku = p_sku for update skip locked);
  end if;
  update market_units u set last_fetch_at = greatest(u.last_fetch_at, p_fetched_at), not_before = '-infinity', fails = 0,
    a = coalesce(x, u.a), b = coalesce(y, u.b)
   where u.unit_key = p_unit_key;
  return true;
end $function$;
revoke execute on function market__learn(text,text,text,text,timestamp with time zone,double precision[],boolean[],boolean,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__learn_bit(p_a double precision, p_b double precision, p_gap_h double precision, p_changed boolean, d market_planner, OUT a double precision, OUT b double precision)
 RETURNS record
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
AS $function$
declare r double precision; p double precision; q double precision; m double precision; v double precision;
begin
  a := p_a;
  b := p_b;
  if p_gap_h <= 0 then
    return;
  end if;
  if not p_changed then
    b := least(p_b + p_gap_h, greatest(d.slowest_h, p_b));
    return;
  end if;
  r := p_b / (p_b + p_gap_h);
  p := exp(greatest(-600, p_a * ln(r)));
  if 1 - p < 1e-6 then
    a := p_a + 1;
  else
    q := 1 / (1 - p);
    m := p_a / p_b * (1 - p * r) * q;
    v := p_a * (p_a + 1) / (p_b * p_b) * (1 - p * r * r) * q - m * m;
    a := m * m / v;
    b := m / v;
  end if;
  -- Old evidence fades: a market that changed its ways is believed after so many changes.
  if a > d.evidence_cap then
    b := b * d.evidence_cap / a;
    a := d.evidence_cap;
  end if;
  b := greatest(b, 1e-6);
end $function$;
revoke execute on function market__learn_bit(double precision,double precision,double precision,boolean,market_planner) from public;

CREATE OR REPLACE FUNCTION market__learn_demand(p_s double precision)
 RETURNS integer
 LANGUAGE plpgsql
 SET lock_timeout TO '200ms'
AS $function$
declare a record; n int := 0;
begin
  for a in
    select p.provider, p.account, p.on_demand_per_h * exp(-p_s / 21600) + (1 - exp(-p_s / 21600)) * 3600 / greatest(p_s, 1) *
        (select count(*) from market_requests r, market_settings s where r.provider = p.provider and r.account = p.account
          and r.priority >= s.wake_priority and r.meter = 'calls' and not r.given_back
          and r.granted_at > (select clock_timestamp()) - make_interval(secs => p_s, mins => 5)
          and r.granted_at <= (select clock_timestamp()) - interval '5 minutes') - 1e-12 as per_h
      from market_providers p order by p.provider, p.account
  loop
    begin
      update market_providers p set on_demand_per_h = greatest(0, a.per_h) where p.provider = a.provider and p.account = a.account;
      n := n + 1;
    exception when lock_not_available then
      perform set_config('lock_timeout', '1ms', true);   -- whoever keeps one may keep all, and a pass waits once
    end;
  end loop;
  return n;
end $function$;
revoke execute on function market__learn_demand(double precision) from public;

CREATE OR REPLACE FUNCTION market__limit(l market__limits, p_kind text)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select case p_kind when 'hour' then l.hour when 'day' then l.day else 1000 end
$function$;
revoke execute on function market__limit(market__limits,text) from public;

CREATE OR REPLACE FUNCTION market__limits(p market_providers)
 RETURNS market__limits
 LANGUAGE plpgsql
 STABLE
AS $function$   -- plpgsql keeps its plans; SQL functions are planned at every call
declare l market__limits;
begin
  select least(p.quota_hour, min((d.told ->> 'hour')::int)), least(p.quota_day, min((d.told ->> 'day')::int)),
         1.1 * greatest(p.pace_s, max((d.told ->> 'pace_s')::double precision)) into l
    from (select m.quotas -> (p.provider || '/' || p.account) as told from market_daemons m
           where m.alive_until > clock_timestamp() offset 0) d;   -- offset: looked up once, not for each of the three
  return l;
end $function$;
revoke execute on function market__limits(market_providers) from public;

CREATE OR REPLACE FUNCTION market__lower(p_text text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$ select translate(p_text, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz') $function$;
revoke execute on function market__lower(text) from public;

CREATE OR REPLACE FUNCTION market__may_see(p_job_id bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
AS $function$
declare caller name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  return market__trusted() or coalesce(pg_has_role(caller, to_regrole('market_daemon')::oid, 'member'), false)   -- it reads the table
    or exists (select from market_job_requests r where r.job_id = p_job_id and r.user_id = market__identity())
    or exists (select from market_jobs j where j.id = p_job_id and j.user_id = market__identity());
end $function$;
revoke execute on function market__may_see(bigint) from public;

CREATE OR REPLACE FUNCTION market__merge(w market__wish, p_job_id bigint)
 RETURNS text
 LANGUAGE plpgsql
AS $function$
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
end $function$;
revoke execute on function market__merge(market__wish,bigint) from public;

CREATE OR REPLACE FUNCTION market__move_watches(p_limit integer DEFAULT 2000)
 RETURNS integer
 LANGUAGE plpgsql
 SET lock_timeout TO '200ms'
AS $function$
declare w record; n int := 0;
begin
  if not exists (select from market_providers p where p.account <> 'default') then
    return 0;   -- no look at all watches where there is nowhere to go
  end if;
  for w in
    select m.*, h.account as home,
           concat_ws('|', m.provider, h.account, m.sku, m.currency, coalesce(m.size, '')) as home_key,
           concat_ws('|', m.provider, h.account, m.sku, m.currency, case when not h.all_sizes then coalesce(m.size, '') end) as home_unit
      from market_watches m
      left join market_account_users a using (provider, user_id)
      join market_providers h on h.provider = m.provider and h.account = coalesce(a.account, 'default')
     where m.account <> h.account order by home_key, m.user_id limit p_limit
  loop
    begin
      delete from market_watches m where m.dedupe_key = w.dedupe_key and m.user_id = w.user_id;
      continue when not found;
      insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
      values (w.provider, w.home, w.sku, w.size, w.currency, w.home_key, w.home_unit) on conflict do nothing;
      insert into market_watches (dedupe_key, user_id, provider, account, sku, size, currency, unit_key, since)
      values (w.home_key, w.user_id, w.provider, w.home, w.sku, w.size, w.currency, w.home_unit, w.since) on conflict do nothing;
      insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
      values ('watch', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, w.user_id),
             ('watch', w.provider, w.home, w.sku, w.size, w.currency, w.home_key, w.home_unit, w.user_id);
      n := n + 1;
    exception when lock_not_available then
      perform set_config('lock_timeout', '1ms', true);   -- who holds one may hold hundreds, and a pass waits once
    end;
  end loop;
  return n;
end $function$;
revoke execute on function market__move_watches(integer) from public;

CREATE OR REPLACE FUNCTION market__note_plan(p_provider text, p_account text, p_share double precision, p_waiting integer, p_inserted integer, p_edge market__candidate, p_found market__candidate[], p_wanted integer, p_typical double precision, p_took_ms double precision, p_now timestamp with time zone)
 RETURNS void
 LANGUAGE sql
AS $function$
  insert into market_plans as x (provider, account, planned_at, share, waiting, inserted, units, view_rate, fresh_rate,
                                 priced_rate, aged_rate, typical_view_rate, marginal_gain, marginal_value, search_from, took_ms)
  select p_provider, p_account, p_now, p_share, p_waiting, p_inserted, coalesce(p_found[1].units, 0),
         coalesce(p_found[1].view_rate, 0), coalesce(p_found[1].fresh_rate, 0), coalesce(p_found[1].priced_rate, 0),
         coalesce(p_found[1].aged_rate, 0), coalesce(p_typical, 1.0 / 24), coalesce(p_edge.gain, 0), coalesce(p_edge.value, 0),
         -- A little lower than this time's last, for what is taken now is gone the next time.
         (select case when count(*) < p_wanted then 0 else 0.8 * min(f.value) end from unnest(p_found) f where not f.waiting),
         p_took_ms
  on conflict (provider, account) do update set planned_at = excluded.planned_at, share = excluded.share,
    waiting = excluded.waiting, inserted = excluded.inserted, units = excluded.units, view_rate = excluded.view_rate,
    fresh_rate = excluded.fresh_rate, priced_rate = excluded.priced_rate, aged_rate = excluded.aged_rate,
    typical_view_rate = coalesce(p_typical, x.typical_view_rate),
    -- What only fades ends as 0, not as a number too small to compute with.
    marginal_gain = greatest(0, 0.9 * x.marginal_gain + 0.1 * excluded.marginal_gain - 1e-12),
    marginal_value = greatest(0, 0.9 * x.marginal_value + 0.1 * excluded.marginal_value - 1e-12),
    search_from = excluded.search_from, took_ms = excluded.took_ms
$function$;
revoke execute on function market__note_plan(text,text,double precision,integer,integer,market__candidate,market__candidate[],integer,double precision,double precision,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__note_refusal(p market_providers, s market_settings, p_reason text, p_now timestamp with time zone)
 RETURNS void
 LANGUAGE sql
AS $function$
  update market_budgets b set refused = b.refused + 1
    from market__window(p, s, 'hour', p_now) w
   where p_reason = 'budget' and b.provider = p.provider and b.account = p.account
     and b.window_kind = 'hour' and b.window_start = w.starts
$function$;
revoke execute on function market__note_refusal(market_providers,market_settings,text,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__number(p_text text, p_low numeric, p_high numeric)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select case when p_text ~ '^[0-9]{1,2}([.][05]0{0,20})?$' and p_text::numeric between p_low and p_high
         then trim_scale(p_text::numeric)::text end
$function$;
revoke execute on function market__number(text,numeric,numeric) from public;

CREATE OR REPLACE FUNCTION market__observed_at(p_provider text, p_account text, p_sku text, p_size text, p_currency text, p_dedupe_key text)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 STABLE
AS $function$
declare seen timestamptz;
begin
  select greatest(t.observed_at, p.observed_at) into seen
    from (select) one
    left join market_targets t on t.dedupe_key = p_dedupe_key
    left join market_prices p on p.provider = p_provider and p.account = p_account and p.sku = p_sku
      and coalesce(p.size, '') = coalesce(t.price_size, p_size, '') and p.currency = p_currency;
  return seen;
end $function$;
revoke execute on function market__observed_at(text,text,text,text,text,text) from public;

CREATE OR REPLACE FUNCTION market__oldest(p_provider text, p_account text, p_limit integer, p_now timestamp with time zone)
 RETURNS SETOF text
 LANGUAGE sql
 STABLE
AS $function$
  select u.unit_key from market_units u cross join market_settings s
   where u.provider = p_provider and u.account = p_account and u.sizes > 0 and u.not_before <= p_now
     and (u.last_fetch_at is null or u.last_fetch_at <= p_now - s.fresh_for)
     and not exists (select from market_jobs j where j.unit_key = u.unit_key
                        and (j.status in ('running', 'deferred')
                             or j.status = 'pending' and (j.rank >= 1e9 or j.priority >= s.wake_priority)))
   order by u.last_fetch_at nulls first, u.unit_key limit p_limit
$function$;
revoke execute on function market__oldest(text,text,integer,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__open(w market__wish, p_is_view boolean DEFAULT true, p_insert boolean DEFAULT true)
 RETURNS market__opened
 LANGUAGE plpgsql
AS $function$
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
end $function$;
revoke execute on function market__open(market__wish,boolean,boolean) from public;

CREATE OR REPLACE FUNCTION market__open_met(p_asked market__taken[], p_after_new boolean)
 RETURNS market__taken[]
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;
revoke execute on function market__open_met(market__taken[],boolean) from public;

CREATE OR REPLACE FUNCTION market__open_new(items jsonb, p_priority integer, p_user_id text, p_now timestamp with time zone)
 RETURNS market__taken[]
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET work_mem TO '64MB'
AS $function$
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
end $function$;
revoke execute on function market__open_new(jsonb,integer,text,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__pace(p market_providers)
 RETURNS double precision
 LANGUAGE plpgsql
 STABLE
AS $function$
begin
  return (market__limits(p)).pace_s;
end $function$;
revoke execute on function market__pace(market_providers) from public;

CREATE OR REPLACE FUNCTION market__plain_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;
revoke execute on function market__plain_insert() from public;

CREATE OR REPLACE FUNCTION market__plan(p_provider text, p_account text, p_interval_s double precision, p_now timestamp with time zone DEFAULT clock_timestamp(), p_dice double precision DEFAULT random())
 RETURNS integer
 LANGUAGE plpgsql
 SET jit TO 'off'
 SET work_mem TO '64MB'
AS $function$
declare
  p market_providers; s market_settings; d market_planner; v record; c market__candidate; found market__candidate[]; began timestamptz := clock_timestamp();
  share double precision; calls int; quota int; waiting int; lane int; opened int := 0; wanted int;
  edge market__candidate; typical double precision; key text; ranks double precision[]; target text; rank double precision;
  chosen text[] := '{}'; worth double precision[] := '{}';
begin
  if not pg_try_advisory_xact_lock(hashtext('marketd.plan ' || p_provider || '/' || p_account)) then
    return 0;
  end if;
  select * into s from market_settings;
  select * into d from market_planner;
  select * into p from market_providers m where m.provider = p_provider and m.account = p_account;
  select * into v from market__verdict(p, s, false, p_now);
  if not d.enabled or v.reason = 'off' then
    return 0;
  elsif v.reason in ('paused', 'circuit', 'cooldown') then
    -- Nothing is opened, but prices age, and who looks at them shall see it.
    update market_plans x set planned_at = p_now, share = 0, inserted = 0, units = coalesce(f.units, 0), view_rate = coalesce(f.view_rate, 0),
        fresh_rate = coalesce(f.fresh_rate, 0), priced_rate = coalesce(f.priced_rate, 0), aged_rate = coalesce(f.aged_rate, 0)
      from (select x.* from market__candidates(p_provider, p_account, 1, null, p_now) x limit 1) f
     where x.provider = p_provider and x.account = p_account;
    return 0;
  end if;
  perform set_config('lock_timeout', '200ms', true);
  share := market__plan_share(p, s, p_interval_s, p_now);
  -- A guess within a factor of five is good enough, so it is made once an hour.
  if not exists (select from market_plans x where x.provider = p_provider and x.account = p_account
                  and x.planned_at > p_now - interval '1 hour' and date_part('hour', x.planned_at) = date_part('hour', p_now)) then
    typical := market__typical_view_rate(p_provider, p_account, p_now);
  end if;
  calls := floor(share + p_dice);
  wanted := calls * 2 + 20;  -- as many as could be opened, and some that will turn out to be cooling down
  found := array(select x from market__candidates(p_provider, p_account, wanted,
    (select y.search_from from market_plans y where y.provider = p_provider and y.account = p_account), p_now) x);
  perform market__rank_waiting(p_provider, p_account, found, share, p_now);
  -- What the plan opened before and nobody has fetched yet counts against this interval.
  select count(distinct j.unit_key) into waiting from market_jobs j
   where j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.priority < s.wake_priority
     and j.user_id is null and not exists (select from market_job_requests r where r.job_id = j.id);
  ranks := array(select max(j.rank) from market_jobs j
    where j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.priority < s.wake_priority
    group by j.unit_key order by 1 desc limit calls);
  quota := greatest(0, calls - waiting);
  -- The same dice, spread anew: each call of the quota is the oldest unit's with probability d.lane.
  lane := least(quota, floor(quota * d.lane + (p_dice * 7919 - floor(p_dice * 7919)))::int);
  for key in select * from market__oldest(p_provider, p_account, lane * 4, p_now) loop
    exit when cardinality(chosen) >= lane;
    target := market__plan_target(key, p_now);
    continue when target is null;
    chosen := chosen || target;
    worth := worth || (1e9 + lane - cardinality(chosen))::double precision;   -- the oldest first
  end loop;
  foreach c in array found loop
    continue when c.waiting;
    exit when c.unit_key is null;
    -- What apps wait for and what is worth more goes first, and takes its part of the share.
    if cardinality(chosen) >= quota or cardinality(chosen) + (select count(*) from unnest(ranks) r where r > c.value) >= calls then
      edge := c;   -- the best call that is not made; none where the calls outlast the list
      exit;
    end if;
    target := market__plan_target(c.unit_key, p_now);
    continue when target is null or target = any (chosen);
    chosen := chosen || target;
    worth := worth || c.value;
  end loop;
  -- At the end and in the order of their keys, as apps open theirs: each waits for the other for a moment at most.
  for target, rank in select x.key, x.worth from unnest(chosen, worth) x(key, worth) order by x.key loop
    opened := opened + market__plan_open(target, rank, p_now)::int;
  end loop;
  perform market__note_plan(p_provider, p_account, share, waiting, opened, edge, found, wanted, typical,
    date_part('epoch', clock_timestamp() - began) * 1000, p_now);
  return opened;
end $function$;
revoke execute on function market__plan(text,text,double precision,timestamp with time zone,double precision) from public;

CREATE OR REPLACE FUNCTION market__plan_open(p_dedupe_key text, p_rank double precision, p_now timestamp with time zone)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
declare t record; n int;
begin
  select x.* into t from market_targets x where x.dedupe_key = p_dedupe_key;
  if p_rank >= 1e9 then
    update market_jobs j set rank = p_rank, updated_at = p_now
     where j.id = (select o.id from market_jobs o where o.unit_key = t.unit_key and o.status = 'pending'
                    order by o.priority desc, o.rank desc, o.id limit 1 for update skip locked);
    if found then
      return true;
    end if;
  end if;
  insert into market_jobs (provider, account, sku, size, currency, priority, status, run_at, max_attempts, rank, turn,
                           dedupe_key, unit_key)
  values (t.provider, t.account, t.sku, t.size, t.currency, least(100, (select wake_priority - 1 from market_settings)),
          'pending', p_now, (select max_attempts from market_settings), p_rank,
          market__turn(t.provider, t.account, 100, null), t.dedupe_key, t.unit_key)
  on conflict do nothing;
  get diagnostics n = row_count;
  return n > 0;
exception when lock_not_available then
  perform set_config('lock_timeout', '1ms', true);   -- who holds one may hold hundreds, and a pass waits once
  return false;
end $function$;
revoke execute on function market__plan_open(text,double precision,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__plan_share(p market_providers, s market_settings, p_interval_s double precision, p_now timestamp with time zone)
 RETURNS double precision
 LANGUAGE plpgsql
 STABLE
AS $function$
declare
  h record; kind text; used_bg bigint; remaining double precision; usable_s double precision;
  best double precision := p_interval_s / greatest(0.001, market__pace(p));
begin
  foreach kind in array array['hour', 'day'] loop
    select * into h from market__shares(p, s, kind, p_now);
    continue when h.quota is null;
    select coalesce(sum(b.used_background), 0) into used_bg from market_budgets b
     where b.provider = p.provider and b.account = p.account and b.window_kind = kind and b.window_start = h.starts;
    remaining := greatest(h.background_left, least(ceil(p.background_min * h.quota) - used_bg, h.quota - h.used), 0);
    usable_s := h.spacing_s * greatest(1, h.background_left);   -- the seconds over which market__shares spreads
    best := least(best, remaining * case when usable_s > p_interval_s then p_interval_s / usable_s else 1 end);
  end loop;
  return best;
end $function$;
revoke execute on function market__plan_share(market_providers,market_settings,double precision,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__plan_target(p_unit_key text, p_now timestamp with time zone)
 RETURNS text
 LANGUAGE plpgsql
AS $function$
declare key text;
begin
  select x.dedupe_key into key from market_watches w join market_targets x using (dedupe_key)
   where w.unit_key = p_unit_key and (x.retry_at is null or x.retry_at <= p_now)
   order by x.last_attempt_at nulls first, x.dedupe_key limit 1;
  if not found then
    -- All its sizes cool down; look again when the first is over. Units come in no order here, so none is waited for.
    update market_units u set not_before = coalesce(
        (select min(x.retry_at) from market_watches w join market_targets x using (dedupe_key) where w.unit_key = p_unit_key),
        p_now + interval '1 hour')
     where u.unit_key = (select n.unit_key from market_units n where n.unit_key = p_unit_key for update skip locked);
  end if;
  return key;
end $function$;
revoke execute on function market__plan_target(text,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__rank_waiting(p_provider text, p_account text, p_found market__candidate[], p_share double precision, p_now timestamp with time zone)
 RETURNS integer
 LANGUAGE sql
AS $function$
  with placed as materialized (
    select j.id, j.rank, f.value, row_number() over (
             partition by coalesce(j.user_id, '') order by f.value desc, j.turn, j.id) as place
      from unnest(p_found) f join market_jobs j on j.unit_key = f.unit_key
     where f.waiting and j.provider = p_provider and j.account = p_account and j.status = 'pending' and j.rank < 1e9
       and j.priority < (select wake_priority from market_settings)
  ), worth as materialized (
    select p.id, p.rank, case when p.place = 1 then max(p.value) over ()
                              else p.value / (1 + floor((p.place - 1) / greatest(1, p_share))) end as value
      from placed p
  ), moved as (
    select w.id, greatest(w.value, 1e-9) as rank from worth w where abs(w.rank - w.value) > 0.05 * abs(w.rank)
     order by 2 desc limit 1000
  ), free as (
    select j.id from market_jobs j where j.id in (select m.id from moved m) and j.status = 'pending' for update skip locked
  ), done as (
    update market_jobs j set rank = m.rank, updated_at = p_now
      from moved m where j.id = m.id and j.id in (select f.id from free f)
    returning 1
  )
  select count(*)::int from done
$function$;
revoke execute on function market__rank_waiting(text,text,market__candidate[],double precision,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__shares(p market_providers, s market_settings, p_kind text, p_at timestamp with time zone, p_quota integer DEFAULT NULL::integer, OUT starts timestamp with time zone, OUT ends timestamp with time zone, OUT quota integer, OUT used integer, OUT urgent_left integer, OUT background_left integer, OUT spacing_s double precision, OUT tokens double precision, OUT urgent_from timestamp with time zone, OUT background_from timestamp with time zone, OUT token_from timestamp with time zone)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
AS $function$
declare w record; b record; used_bg int; rem double precision; len double precision; keep double precision; late boolean;
  expected double precision; burst int;
begin
  quota := coalesce(p_quota, market__limit(market__limits(p), p_kind));
  if quota is null then
    return;
  end if;
  w := market__window(p, s, p_kind, p_at);
  starts := w.starts;
  ends := w.ends;
  select m.used, m.used_background, m.background_tokens, m.background_at into b from market_budgets m
   where m.provider = p.provider and m.account = p.account and m.window_kind = p_kind and m.window_start = w.starts;
  used := coalesce(b.used, 0);
  used_bg := coalesce(b.used_background, 0);
  if p.rolling and p_kind = 'hour' then
    -- The provider counts the last hour, whenever it asks; our clock-hour row is then bookkeeping only. A request may
    -- leave as late as its grant is valid, so a call is counted for so much longer.
    select count(*), min(g.send_at) + make_interval(secs => s.hour_s + 6 * market__guard(s)) into used, ends
      from market_grants g where g.provider = p.provider and g.account = p.account
       and g.send_at > p_at - make_interval(secs => s.hour_s + 6 * market__guard(s));
    ends := coalesce(ends, w.ends);
  end if;
  len := date_part('epoch', w.ends - w.starts);
  rem := greatest(0, date_part('epoch', w.ends - p_at));
  late := rem <= 0.05 * len;
  expected := p.on_demand_per_h * rem / 3600;
  keep := case when late then 0
               when p.reserve is null then ceil(expected + sqrt(expected))
               else ceil(p.reserve * quota * rem / len) end;
  background_left := greatest(0, quota - used - least(keep, quota)::int);
  urgent_left := greatest(0, quota - used);   -- a quota may be lowered below what was used
  if urgent_left > 0 and p.background_min > 0 and not late then
    keep := greatest(0, ceil(p.background_min * quota) - used_bg);
    -- Neither EXISTS nor min(), which may both be planned as a walk through all that waits: this is one step down an index.
    if keep > 0 and (select j.priority from market_jobs j where j.provider = p.provider and j.account = p.account
                        and j.status = 'pending' order by j.priority limit 1) < s.wake_priority then
      urgent_left := greatest(0, urgent_left - keep::int);
      -- What is kept for background is not the reserve's to refuse.
      background_left := greatest(background_left, least(keep::int, quota - used));
    end if;
  end if;
  spacing_s := greatest(0, rem - 0.05 * len) / greatest(1, background_left);
  if p.rolling and p_kind = 'hour' then   -- calls come back one by one, at the rate at which they went
    spacing_s := least(spacing_s, 0.95 * len / greatest(1, quota - least(keep, quota)));
  end if;
  burst := greatest(1, least(quota, used_bg + background_left) / 10);
  tokens := case when spacing_s = 0 then burst
    else least(burst, coalesce(b.background_tokens, burst)
                      + greatest(0, coalesce(date_part('epoch', p_at - b.background_at), 0)) / spacing_s) end;
  if used >= quota then
    urgent_from := ends;
    background_from := ends;
  else
    urgent_from := case when urgent_left <= 0 then ends - 0.05 * (ends - starts) end;
    background_from := case when background_left <= 0 then ends - 0.05 * (ends - starts) end;
  end if;
  token_from := case when tokens < 1 then p_at + make_interval(secs => (1 - tokens) * spacing_s) end;
end $function$;
revoke execute on function market__shares(market_providers,market_settings,text,timestamp with time zone,integer) from public;

CREATE OR REPLACE FUNCTION market__shown_quota(p market_providers, p_kind text)
 RETURNS integer
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
  return market__limit(market__limits(p), p_kind);
end $function$;
revoke execute on function market__shown_quota(market_providers,text) from public;

CREATE OR REPLACE FUNCTION market__shown_shares(p market_providers, s market_settings, p_kind text, OUT starts timestamp with time zone, OUT ends timestamp with time zone, OUT quota integer, OUT used integer, OUT urgent_left integer, OUT background_left integer)
 RETURNS record
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
  select h.starts, h.ends, h.quota, h.used, h.urgent_left, h.background_left
    into starts, ends, quota, used, urgent_left, background_left from market__shares(p, s, p_kind, clock_timestamp()) h;
end $function$;
revoke execute on function market__shown_shares(market_providers,market_settings,text) from public;

CREATE OR REPLACE FUNCTION market__shown_verdict(p market_providers, s market_settings, p_urgent boolean, OUT reason text, OUT until timestamp with time zone)
 RETURNS record
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
  select v.reason, v.until into reason, until from market__verdict(p, s, p_urgent, clock_timestamp()) v;
end $function$;
revoke execute on function market__shown_verdict(market_providers,market_settings,boolean) from public;

CREATE OR REPLACE FUNCTION market__size(p_text text, p_default_system text, OUT size text, OUT problem text)
 RETURNS record
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
AS $function$
declare t text; m text[];
begin
  if p_text is null then
    return;
  end if;
  if p_default_system = 'us' and p_text ~ '^([1-9]|1[0-9]|2[01])([.]5)?$' then   -- as nearly all are written
    size := p_text;
    return;
  end if;
  t := market__upper(btrim(regexp_replace(p_text, E'[ \t\n\r\f\x0B]+', ' ', 'g'), ' '));
  t := replace(replace(t, ',', '.'), '½', '.5');
  if t in ('ONE SIZE', 'OS', 'O/S') then
    return;
  end if;
  if t ~ '^[0-9.]+$' then
    t := case p_default_system when 'uk' then 'UK ' when 'eu' then 'EU ' else '' end || t;
  end if;
  case
    when t ~ '^(US ?)?(M ?)?[0-9.]+( ?M)?$' then
      size := market__number((regexp_match(t, '[0-9.]+'))[1], 0.5, 22);
    when t ~ '^(US ?)?W ?[0-9.]+$' or t ~ '^(US ?)?[0-9.]+ ?W$' then
      size := market__number((regexp_match(t, '[0-9.]+'))[1], 0.5, 22) || 'W';
    when t ~ '^(US ?)?[0-9.]+ ?[YC]$' then
      size := market__number((regexp_match(t, '[0-9.]+'))[1], 0.5, 13.5) || right(t, 1);
    when t ~ '^UK ?[0-9.]+$' then
      size := 'UK ' || market__number((regexp_match(t, '[0-9.]+'))[1], 0.5, 22);
    when t ~ '^EU ?[0-9]+ [12]/3$' then
      m := regexp_match(t, '^EU ?([0-9]+) ([12]/3)$');
      size := 'EU ' || market__number(m[1], 15, 60) || ' ' || m[2];
    when t ~ '^EU ?[0-9.]+$' then
      size := 'EU ' || market__number((regexp_match(t, '[0-9.]+'))[1], 15, 60);
    when t ~ '^CM ?[0-9.]+$' then
      size := 'CM ' || market__number((regexp_match(t, '[0-9.]+'))[1], 5, 40);
    when t ~ '^KR ?[1-4][0-9][05]$' then
      size := 'KR ' || right(t, 3);
      if right(t, 3)::int > 400 then size := null; end if;
    when t ~ '^(PSA|BGS|CGC|SGC|BVG|HGA|TAG|ACE) ?[0-9.]+$' then
      m := regexp_match(t, '^([A-Z]+) ?([0-9.]+)$');
      size := m[1] || ' ' || market__number(m[2], 1, 10);
    when t in ('XXS', 'XS', 'S', 'M', 'L', 'XL', 'XXL', 'XXXL', 'XXXXL') then
      size := t;
    when t in ('2XL', '3XL', '4XL') then
      size := repeat('X', left(t, 1)::int) || 'L';
    else
      null;
  end case;
  if size is null then
    problem := format('size %s cannot be read (10, 7.5W, 5Y, 9C, UK 9, EU 42.5, PSA 10, XL are forms that can)',
                      quote_literal(left(p_text, 40)));
  end if;
end $function$;
revoke execute on function market__size(text,text) from public;

CREATE OR REPLACE FUNCTION market__sku(p_text text, OUT sku text, OUT problem text)
 RETURNS record
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
AS $function$
declare rest text;
begin
  if p_text ~ '^[A-Z0-9][A-Z0-9._+-]*$' and length(p_text) <= 64 then   -- as nearly all are written; the rest takes the long way
    sku := p_text;
    return;
  end if;
  if p_text is null or btrim(p_text, E' \t\n\r\f\x0B') = '' then
    problem := 'sku is empty';
    return;
  end if;
  sku := btrim(p_text, E' \t\n\r\f\x0B');
  if market__lower(left(sku, 3)) = 'id:' then
    rest := market__lower(btrim(substr(sku, 4), E' \t\n\r\f\x0B'));
    sku := 'id:' || rest;
    if rest !~ '^[a-z0-9][a-z0-9._-]{0,99}$' then
      problem := 'sku id:... wants a product id of letters, digits, dots, dashes and underscores, at most 100';
    end if;
  elsif market__lower(left(sku, 5)) = 'name:' then
    rest := market__lower(btrim(regexp_replace(substr(sku, 6), E'[ \t\n\r\f\x0B]+', ' ', 'g'), ' '));
    sku := 'name:' || rest;
    -- Code points, not character classes, which differ by the database's locale: what follows U+00BF counts as a letter.
    if length(rest) not between 3 and 100 or rest ~ E'[\\u0001-\\u001f\\u007f-\\u009f]' or rest !~ E'[a-z0-9]|[^\\u0001-\\u00bf]' then
      problem := 'sku name:... wants 3 to 100 characters with at least one letter or digit';
    end if;
  else
    sku := regexp_replace(market__upper(sku), E'^\\([^)]*\\)[ \t\n\r\f\x0B]*', '');
    sku := regexp_replace(sku, E'[ \t\n\r\f\x0B]*[/,|][ \t\n\r\f\x0B]*', '/', 'g');
    sku := regexp_replace(sku, E'[ \t\n\r\f\x0B]+', '-', 'g');
    if length(sku) > 64 then
      problem := 'sku is longer than 64 characters';
    elsif sku !~ '^[A-Z0-9][A-Z0-9._+-]*(/[A-Z0-9][A-Z0-9._+-]*)*$' then
      problem := 'sku is not a style code (letters, digits, dots and dashes), id:<product id> or name:<words>';
    end if;
  end if;
  if problem is not null then
    sku := null;
  end if;
end $function$;
revoke execute on function market__sku(text) from public;

CREATE OR REPLACE FUNCTION market__still(p_a double precision, p_b double precision, p_age_h double precision)
 RETURNS double precision
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$ select exp(greatest(-600, p_a * ln(p_b / (p_b + greatest(0, p_age_h))))) $function$;
revoke execute on function market__still(double precision,double precision,double precision) from public;

CREATE OR REPLACE FUNCTION market__tell_watches(p_wishes market__wish[], p_keys text[])
 RETURNS void
 LANGUAGE sql
AS $function$
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
  select 'watch', w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, coalesce(w.user_id, '')
    from unnest(p_wishes) w where (w.dedupe_key in (select unnest(p_keys))) is true   -- a hash; as an array each would be walked
$function$;
revoke execute on function market__tell_watches(market__wish[],text[]) from public;

CREATE OR REPLACE FUNCTION market__trusted(p_owner name DEFAULT NULL::name)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
AS $function$
declare caller name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  if p_owner is null then
    select pg_get_userbyid(c.relowner) into p_owner from pg_class c where c.oid = 'market_jobs'::regclass;
  end if;
  return pg_has_role(caller, p_owner, 'member') or coalesce(pg_has_role(caller, to_regrole('market_operator')::oid, 'member'), false);
end $function$;
revoke execute on function market__trusted(name) from public;

CREATE OR REPLACE FUNCTION market__turn(p_provider text, p_account text, p_priority integer, p_user_id text)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE
AS $function$
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
end $function$;
revoke execute on function market__turn(text,text,integer,text) from public;

CREATE OR REPLACE FUNCTION market__typical_view_rate(p_provider text, p_account text, p_now timestamp with time zone)
 RETURNS double precision
 LANGUAGE sql
 STABLE
AS $function$
  select greatest(1e-4, (1 + coalesce(sum(u.views), 0))
    / (24 + coalesce(sum(u.sizes * d.memory_h
         * (1 - exp(greatest(-600, -greatest(0, date_part('epoch', p_now - u.tracked_since)) / 3600 / d.memory_h)))), 0)))
    from market_units u cross join market_planner d
   where u.provider = p_provider and u.account = p_account and u.sizes > 0
$function$;
revoke execute on function market__typical_view_rate(text,text,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__upper(p_text text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$ select translate(p_text, 'abcdefghijklmnopqrstuvwxyz', 'ABCDEFGHIJKLMNOPQRSTUVWXYZ') $function$;
revoke execute on function market__upper(text) from public;

CREATE OR REPLACE FUNCTION market__values(p_provider text, p_account text, p_now timestamp with time zone)
 RETURNS TABLE(unit_key text, sizes integer, due boolean, priced boolean, views_per_h double precision, a double precision, b double precision, age_h double precision, still double precision, gain double precision, value double precision)
 LANGUAGE sql
 STABLE
AS $function$
  select y.unit_key, y.sizes, y.due, y.priced, y.w, y.a, y.b, y.tau, y.p, y.w * greatest(0, y.i - y.tau * y.p),
         y.w * (greatest(0, y.i - y.tau * y.p) + (select kappa from market_planner) * greatest(0, y.tau - y.i))
    from (
      -- (b/(b+tau))^(a-1) = still * (b+tau)/b; near a = 1 only the closed form fails, and the series stands in.
      select v.unit_key, v.sizes, v.due, v.priced, v.w, v.a, v.b, v.tau, case when v.priced then v.p else 0 end as p,
             case when abs(1 - v.p * (v.b + v.tau) / v.b) < 1e-4
                  then v.b * ln((v.b + v.tau) / v.b) * (1 - (1 - v.p * (v.b + v.tau) / v.b) / 2)
                  else v.b / (v.a - 1) * (1 - v.p * (v.b + v.tau) / v.b) end as i
        from (
          select u.unit_key, u.sizes, u.due, u.priced, u.w, u.a, u.b, u.tau, exp(greatest(-600, u.a * ln(u.b / (u.b + u.tau)))) as p
            from (
              select m.unit_key, m.sizes, m.last_fetch_at is not null as priced,
                     coalesce(m.a, d.prior_a) as a, coalesce(m.b, d.prior_b_h) as b,
                     m.not_before <= p_now and (m.last_fetch_at is null or m.last_fetch_at <= d.stale_at) as due,
                     case when m.last_fetch_at is null then d.memory_h
                          else greatest(0, date_part('epoch', p_now - m.last_fetch_at) / 3600) end as tau,
                     (m.views * exp(greatest(-600, least(0, date_part('epoch', m.views_at - p_now) / d.memory_s)))
                        + d.size_weight * greatest(1, m.sizes))
                       / (d.prior_h + d.memory_h
                          * (1 - exp(greatest(-600, least(0, date_part('epoch', m.tracked_since - p_now) / d.memory_s))))) as w
                from market_units m
                cross join (
                  select x.*, x.memory_h * 3600 as memory_s, p_now - s.fresh_for as stale_at,
                         x.size_weight / coalesce((select q.typical_view_rate from market_plans q
                                                    where q.provider = p_provider and q.account = p_account), 1.0 / 24) as prior_h
                    from market_planner x cross join market_settings s limit 1) d
               where m.provider = p_provider and m.account = p_account
              offset 0) u
          offset 0) v
      offset 0) y
$function$;
revoke execute on function market__values(text,text,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__verdict(p market_providers, s market_settings, p_urgent boolean, p_now timestamp with time zone, p_after text DEFAULT NULL::text, l market__limits DEFAULT NULL::market__limits, OUT reason text, OUT until timestamp with time zone, OUT calls_left integer, OUT hour_quota integer, OUT hour_ends timestamp with time zone, OUT spacing_s double precision, OUT day_left integer, OUT day_quota integer, OUT day_ends timestamp with time zone)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
AS $function$
declare kind text; h record; allowed timestamptz; ahead_s double precision;
begin
  l := coalesce(l, market__limits(p));
  if not p.enabled or p.paused_at is not null or p.circuit <> 'closed' then
    select c.reason, c.until into reason, until from market__closed(p, p_now, p_after) c;
  end if;
  foreach kind in array array['hour', 'day'] loop
    continue when market__limit(l, kind) is null;
    h := market__shares(p, s, kind, p_now, market__limit(l, kind));
    calls_left := greatest(0, least(calls_left, case when p_urgent then h.urgent_left else h.background_left end));
    if kind = 'hour' then
      hour_quota := h.quota;
      hour_ends := h.ends;
    else
      day_left := case when p_urgent then h.urgent_left else h.background_left end;
      day_quota := h.quota;
      day_ends := h.ends;
    end if;
    spacing_s := greatest(spacing_s, h.spacing_s);
    continue when reason in ('off', 'paused', 'circuit', 'cooldown');
    allowed := case when p_urgent then h.urgent_from
                    else coalesce(h.background_from, case when p_after is null then h.token_from end) end;
    if allowed > p_now and (until is null or allowed > until) then
      reason := 'budget';
      until := allowed;
    end if;
  end loop;
  if reason is null and p.next_request_at > p_now + interval '5 seconds' then
    ahead_s := market__ahead_s(p, l.pace_s, p_now);
    if ahead_s > 5 then
      reason := 'pace';
      until := p_now + make_interval(secs => ahead_s);
    end if;
  end if;
end $function$;
revoke execute on function market__verdict(market_providers,market_settings,boolean,timestamp with time zone,text,market__limits) from public;

CREATE OR REPLACE FUNCTION market__wait(p_job_id bigint, INOUT lane market__lane, p_count_to integer DEFAULT 200, OUT state text, OUT waiting_for text, OUT until timestamp with time zone, OUT eta timestamp with time zone, OUT detail text)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
AS $function$
declare j market_jobs; now_at timestamptz := clock_timestamp(); ahead record;
begin
  select * into j from market_jobs where id = p_job_id;
  state := j.status;
  if state is null then
    return;
  elsif state in ('done', 'failed') then
    waiting_for := 'nothing';
    detail := case state when 'done' then j.outcome else concat_ws(': ', j.error_code, j.error_message) end;
    return;
  elsif state = 'running' then
    waiting_for := 'running';
    until := j.lease_expires_at;
    eta := now_at;
    detail := format('attempt %s of %s, being fetched now', j.attempt, j.max_attempts);
    return;
  end if;
  if lane.provider is distinct from j.provider or lane.account <> j.account
     or lane.urgent <> (j.priority >= lane.wake_priority) then
    lane := market__lane(j.provider, j.account, j.priority);
  end if;
  if state = 'deferred' and j.run_at > now_at then
    waiting_for := case when j.retry_at >= j.run_at and j.attempt = 0 then 'cooldown' else 'not_before' end;
    until := j.run_at;
    eta := market__eta(lane, 0, 0, now_at);
    eta := case when lane.alive and eta is not null then greatest(j.run_at, eta) end;   -- greatest() looks past a null
    detail := case
      when waiting_for = 'cooldown' then 'the target cools down: '
        || coalesce((select nullif(concat_ws(': ', t.last_error_code, t.last_error_message), '')
                       from market_targets t where t.dedupe_key = j.dedupe_key), 'it failed before')
      when j.retry_at >= j.run_at
        then format('attempt %s of %s failed (%s); next try then', j.attempt, j.max_attempts, coalesce(j.error_code, 'unknown'))
      else 'the app asked for it not before then' end;
    if not lane.alive then
      detail := detail || '; and no daemon is running';
    elsif lane.reason in ('off', 'paused') or lane.until > j.run_at then
      detail := detail || '; and then: ' || lane.words;
    end if;
    return;
  end if;
  if not lane.alive then
    waiting_for := 'no_daemon';
    detail := concat_ws('; and then: ', 'no daemon is running: start marketd',
                        case when lane.reason in ('off', 'paused', 'cooldown', 'circuit', 'budget') then lane.words end);
    return;
  elsif lane.reason = 'off' then
    waiting_for := 'off';
    detail := lane.words;
    return;
  end if;
  select f.lease_expires_at into until from market_fetches f where f.unit_key = j.unit_key and f.lease_expires_at > now_at;
  if found then
    waiting_for := 'running';
    eta := now_at;
    detail := 'a fetch of the same product is under way; its price will serve this job if it is fresh enough';
    return;
  end if;
  ahead := market__ahead(j, lane, p_count_to);
  waiting_for := coalesce(lane.reason, 'rank');
  until := lane.until;
  eta := case when ahead.jobs <= p_count_to then market__eta(lane, ahead.urgent_calls, ahead.other_calls, now_at) end;
  detail := concat_ws('; ', lane.words, case
    when ahead.jobs = 0 then 'next in line'
    when ahead.jobs > p_count_to then format('more than %s jobs ahead', p_count_to)
    else format('%s job%s ahead (%s call%s)', ahead.jobs, case when ahead.jobs > 1 then 's' end,
                ahead.urgent_calls + ahead.other_calls, case when ahead.urgent_calls + ahead.other_calls > 1 then 's' end) end);
end $function$;
revoke execute on function market__wait(bigint,market__lane,integer) from public;

CREATE OR REPLACE FUNCTION market__window(p market_providers, s market_settings, p_kind text, p_at timestamp with time zone, OUT starts timestamp with time zone, OUT ends timestamp with time zone)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
AS $function$
declare len double precision := case when p_kind = 'hour' then s.hour_s else s.day_s end; local_day timestamp;
begin
  if p_kind = 'hour' or s.day_s is not null then
    starts := to_timestamp(floor(date_part('epoch', p_at) / len) * len);
    ends := starts + make_interval(secs => len);
    return;
  end if;
  local_day := date_trunc('day', (p_at at time zone p.day_zone) - p.day_start::interval) + p.day_start::interval;
  starts := local_day at time zone p.day_zone;
  if starts > p_at then      -- the day begins within an hour that the clocks repeat: it begins once
    local_day := local_day - interval '1 day';
    starts := local_day at time zone p.day_zone;
  end if;
  ends := (local_day + interval '1 day') at time zone p.day_zone;
  if ends <= p_at then       -- or within one that they leave out
    starts := ends;
    ends := (local_day + interval '2 days') at time zone p.day_zone;
  end if;
end $function$;
revoke execute on function market__window(market_providers,market_settings,text,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market__wish(p_provider text, p_sku text, p_size text, p_currency text, p_priority integer, p_not_before timestamp with time zone, p_user_id text, p_account text DEFAULT NULL::text)
 RETURNS market__wish
 LANGUAGE plpgsql
 STABLE
AS $function$
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
end $function$;
revoke execute on function market__wish(text,text,text,text,integer,timestamp with time zone,text,text) from public;

CREATE OR REPLACE FUNCTION market__wishes(items jsonb, p_priority integer, p_user_id text)
 RETURNS TABLE(ord integer, wish market__wish)
 LANGUAGE plpgsql
 STABLE
AS $function$
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
end $function$;
revoke execute on function market__wishes(jsonb,integer,text) from public;

CREATE OR REPLACE FUNCTION market_enqueue(provider text, sku text, size text DEFAULT NULL::text, priority integer DEFAULT 100, user_id text DEFAULT NULL::text, not_before timestamp with time zone DEFAULT NULL::timestamp with time zone, currency text DEFAULT NULL::text)
 RETURNS TABLE(job_id bigint, result text, wait_reason text, eta timestamp with time zone)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$             -- planned while small it would walk big tables; before 18 that costs 1e10, which starts the JIT compiler
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
end $function$;
revoke execute on function market_enqueue(text,text,text,integer,text,timestamp with time zone,text) from public;

CREATE OR REPLACE FUNCTION market_enqueue_many(items jsonb, priority integer DEFAULT 100, user_id text DEFAULT NULL::text)
 RETURNS TABLE(ord integer, job_id bigint, result text, wait_reason text, eta timestamp with time zone, error_code text, error_message text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;
revoke execute on function market_enqueue_many(jsonb,integer,text) from public;

CREATE OR REPLACE FUNCTION market_enrich(provider text DEFAULT NULL::text, p_limit integer DEFAULT 50)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
end $function$;
revoke execute on function market_enrich(text,integer) from public;

CREATE OR REPLACE FUNCTION market_fold_requests()
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
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
end $function$;
revoke execute on function market_fold_requests() from public;

CREATE OR REPLACE FUNCTION market_give_back(p_receipt text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare parts text[] := string_to_array(p_receipt, ';'); entry text; word text; n int := 0;
begin
  -- The same lock order as market_take: provider first, then its windows.
  perform from market_providers where provider = parts[1] and account = parts[2] for no key update;
  foreach entry in array parts[4:] loop
    word := split_part(entry, '=', 2);
    case split_part(entry, '=', 1)
    when 'grant' then
      delete from market_grants where grant_id = word::bigint;
    when 'probe' then
      -- A probe that never left leaves the circuit as it was: due for a probe.
      update market_providers set circuit = 'open', circuit_until = clock_timestamp()
       where provider = parts[1] and account = parts[2] and circuit = 'half_open' and circuit_probe = word::bigint;
    else
      update market_budgets set used = greatest(0, used - 1), used_background = greatest(0, used_background - parts[3]::int),
        background_tokens = background_tokens + parts[3]::int, given_back = given_back + 1
       where provider = parts[1] and account = parts[2] and window_kind = split_part(entry, '=', 1)
         and window_start = to_timestamp(word::double precision);
      n := n + 1;
    end case;
  end loop;
  return n;
end $function$;
revoke execute on function market_give_back(text) from public;

CREATE OR REPLACE FUNCTION market_give_back_block(p_receipt text, p_calls integer)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare parts text[] := string_to_array(p_receipt, ';'); entry text; given int := greatest(0, p_calls); n int := 0;
begin
  -- The same lock order as market_take: provider first, then its windows.
  perform from market_providers where provider = parts[1] and account = parts[2] for no key update;
  foreach entry in array parts[4:] loop
    update market_budgets set used = greatest(0, used - given),
      used_background = greatest(0, used_background - given * parts[3]::int),
      background_tokens = background_tokens + given * parts[3]::int, given_back = given_back + given
     where provider = parts[1] and account = parts[2] and window_kind = split_part(entry, '=', 1)
       and window_start = to_timestamp(split_part(entry, '=', 2)::double precision);
    n := n + 1;
  end loop;
  return n;
end $function$;
revoke execute on function market_give_back_block(text,integer) from public;

CREATE OR REPLACE FUNCTION market_move(p_provider text, p_account text, p_receipt text, p_missed timestamp with time zone, p_lead_s double precision DEFAULT 0, OUT reason text, OUT until timestamp with time zone, OUT wait_s double precision, OUT moment timestamp with time zone, OUT delay_s double precision, OUT step_s double precision)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare p market_providers; now_at timestamptz;
begin
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  now_at := clock_timestamp();
  select c.reason, c.until into reason, until from market__closed(p, now_at, p_receipt) c;
  if reason is not null then
    return;
  end if;
  step_s := market__pace(p);
  if p.next_request_at > p_missed + make_interval(secs => step_s) then
    delay_s := market__ahead_s(p, step_s, now_at);
  else
    delay_s := 0;
  end if;
  delay_s := greatest(delay_s, p_lead_s);
  if delay_s > p_lead_s + market__early((select s from market_settings s)) then
    wait_s := delay_s - p_lead_s - 0.01;
    return;
  end if;
  moment := now_at + make_interval(secs => delay_s);
  update market_providers m set next_request_at = moment + make_interval(secs => step_s)
   where m.provider = p_provider and m.account = p_account;
end $function$;
revoke execute on function market_move(text,text,text,timestamp with time zone,double precision) from public;

CREATE OR REPLACE FUNCTION market_pause(provider text, reason text DEFAULT NULL::text)
 RETURNS TABLE(account text, state text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
  if not exists (select from market_providers p where p.provider = market_pause.provider) then
    raise exception 'market_pause: provider % is unknown', quote_literal(left(coalesce(market_pause.provider, ''), 40)) using errcode = '22023';
  end if;
  return query
    update market_providers p set paused_at = clock_timestamp(), paused_reason = left(coalesce(reason, 'no reason given'), 300)
     where p.provider = market_pause.provider returning p.account, 'paused'::text;
end $function$;
revoke execute on function market_pause(text,text) from public;

CREATE OR REPLACE FUNCTION market_plan(provider text DEFAULT NULL::text, n integer DEFAULT 20)
 RETURNS TABLE(place bigint, provider_name text, account text, sku text, size text, currency text, value double precision, why text, age_s double precision, still_right double precision, views_per_day double precision, changes_per_day double precision, job_id bigint)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare now_at timestamptz := clock_timestamp();
begin
  if market_plan.provider is not null
     and not exists (select from market_providers p where p.provider = market_plan.provider) then
    raise exception 'market_plan: provider % is unknown', quote_literal(left(market_plan.provider, 40)) using errcode = '22023';
  elsif coalesce(n, 0) < 0 then
    raise exception 'market_plan: n % is negative', n using errcode = '22023';
  end if;
  return query
    select row_number() over (order by q.place_value desc, q.unit_key), q.p_provider, q.p_account, q.sku, q.size, q.currency, q.value,
           q.why, case when q.priced then q.age_h * 3600 end, case when q.priced then q.still end, q.views_per_h * 24, q.a / q.b * 24, q.job
      from (
        select p.provider as p_provider, p.account as p_account, u.sku, u.size, u.currency, v.*, j.id as job,
               coalesce(j.rank, v.value) as place_value,
               case when j.rank >= 1e9 then 'oldest: the share that is kept for what was not looked at for longest'
                    when j.id is not null and j.asked then 'asked for, and waiting'
                    when j.id is not null then 'planned for this interval'
                    when not v.priced then 'never fetched'
                    else format('%s of 100 views would see a wrong price now', round((100 * (1 - v.still))::numeric)) end as why
          from market_providers p
          cross join lateral market__values(p.provider, p.account, now_at) v
          join market_units u using (unit_key)
          left join lateral (
            select o.id, o.rank, exists (select from market_job_requests r where r.job_id = o.id) as asked
              from market_jobs o where o.unit_key = v.unit_key and o.status = 'pending' and o.rank > 0
             order by o.rank desc limit 1) j on true
         where (market_plan.provider is null or p.provider = market_plan.provider) and p.enabled
           and (j.id is not null or v.sizes > 0 and v.due and not exists (
                  select from market_jobs o where o.unit_key = v.unit_key and o.status in ('pending', 'running', 'deferred')))
      ) q
     order by 1 limit n;
end $function$;
revoke execute on function market_plan(text,integer) from public;

CREATE OR REPLACE FUNCTION market_reconcile(p_provider text, p_account text, p_remaining integer, p_reset timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare p market_providers; s market_settings; w record; drift int; known int;
begin
  select * into s from market_settings;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  if not found or p.quota_day is null then
    return null;
  end if;
  select * into w from market__window(p, s, 'day', clock_timestamp());
  insert into market_budgets (provider, account, window_kind, window_start, window_end, quota)
  values (p_provider, p_account, 'day', w.starts, w.ends, p.quota_day)
  on conflict (provider, account, window_kind, window_start) do nothing;
  select used into known from market_budgets
   where provider = p_provider and account = p_account and window_kind = 'day' and window_start = w.starts;
  drift := (p.quota_day - known) - p_remaining;
  -- The provider's figures lag behind, so fewer used than we know of means nothing.
  update market_budgets set used = used + greatest(0, drift)
   where drift > 0 and provider = p_provider and account = p_account and window_kind = 'day' and window_start = w.starts;
  -- A day that the provider calls spent ends when the provider says so.
  update market_providers set reported_remaining = p_remaining, reported_at = clock_timestamp(), reported_drift = drift,
    circuit_until = case when circuit = 'open' and circuit_reason = 'throttled' and p_remaining = 0
                         then coalesce(p_reset, circuit_until) else circuit_until end
   where provider = p_provider and account = p_account;
  return drift;
end $function$;
revoke execute on function market_reconcile(text,text,integer,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION market_refresh(items jsonb, user_id text DEFAULT NULL::text)
 RETURNS TABLE(ord integer, job_id bigint, result text, wait_reason text, eta timestamp with time zone, error_code text, error_message text)
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
  select market__check_items(items, 'market_refresh');      -- so that a refusal names what was called
  select * from market_enqueue_many(items, 200, user_id)
$function$;
revoke execute on function market_refresh(jsonb,text) from public;

CREATE OR REPLACE FUNCTION market_reopen()
 RETURNS SETOF bigint
 LANGUAGE plpgsql
 SET lock_timeout TO '20ms'
AS $function$
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
end $function$;
revoke execute on function market_reopen() from public;

CREATE OR REPLACE FUNCTION market_report(p_provider text, p_account text, p_kind text, p_retry_after_s double precision DEFAULT NULL::double precision, p_day_spent boolean DEFAULT false, p_detail text DEFAULT NULL::text, p_receipt text DEFAULT NULL::text, OUT state text, OUT until timestamp with time zone, OUT changed boolean)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare p market_providers; s market_settings; wait_s double precision; now_at timestamptz; w record; probe boolean; told boolean;
begin
  select * into s from market_settings;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  now_at := clock_timestamp();
  state := p.circuit;
  until := p.circuit_until;
  changed := false;
  probe := market__is_probe(p, p_receipt);
  -- "Retry after 0" (or a date that is past) is no word at all: else each probe would follow the one before.
  told := p_retry_after_s > 0 or p_day_spent;
  if p_kind = 'ok' then
    if p.circuit = 'closed' and p.circuit_failures > 0 or probe then
      changed := probe;
      update market_providers set circuit = 'closed', circuit_reason = null, circuit_until = null, circuit_detail = null,
        circuit_day_spent = false, circuit_failures = 0, circuit_opens = 0, circuit_prober = null
       where provider = p_provider and account = p_account;
      state := 'closed';
      until := null;
      if probe then   -- who waits for the probe's answer has it now
        perform pg_notify('market_jobs', p_provider);
      end if;
    end if;
    return;
  end if;
  if p.circuit <> 'closed' and not probe and (p_kind <> 'throttled' or told is not true) then
    return;
  end if;
  if p_kind = 'errors' and p.circuit = 'closed' and p.circuit_failures + 1 < p.circuit_after then
    update market_providers set circuit_failures = circuit_failures + 1
     where provider = p_provider and account = p_account;
    return;
  end if;
  if p_day_spent then
    select * into w from market__window(p, s, 'day', now_at);
    wait_s := greatest(date_part('epoch', w.ends - now_at), coalesce(p_retry_after_s, 0));
  else
    wait_s := coalesce(case when p_retry_after_s > 0 then p_retry_after_s end,
      case p_kind when 'throttled' then least(300, 2 * 2 ^ least(p.circuit_opens, 20))
                  when 'unauthorized' then 900
                  else least(300, p.circuit_open_s * 2 ^ least(p.circuit_opens, 20)) end);
  end if;
  state := 'open';
  until := now_at + make_interval(secs => least(wait_s, 90000));   -- no provider's day has more than 25 hours
  if p.circuit = 'open' and p.circuit_until > until then
    until := p.circuit_until;   -- a shorter word never cuts a longer one
  end if;
  changed := p.circuit <> 'open' or p.circuit_reason <> p_kind or p.circuit_until < until;
  update market_providers m set circuit = 'open', circuit_reason = p_kind, circuit_until = market_report.until,
    circuit_detail = left(p_detail, 300), circuit_day_spent = p_day_spent, circuit_failures = m.circuit_failures + 1,
    -- several requests that were under way together are one piece of trouble
    circuit_opens = m.circuit_opens + (p.circuit = 'closed' or probe)::int, circuit_prober = null
   where m.provider = p_provider and m.account = p_account;
end $function$;
revoke execute on function market_report(text,text,text,double precision,boolean,text,text) from public;

CREATE OR REPLACE FUNCTION market_resume(provider text)
 RETURNS TABLE(account text, state text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
end $function$;
revoke execute on function market_resume(text) from public;

CREATE OR REPLACE FUNCTION market_retry(provider text DEFAULT NULL::text, error_code text DEFAULT NULL::text, ids bigint[] DEFAULT NULL::bigint[])
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
end $function$;
revoke execute on function market_retry(text,text,bigint[]) from public;

CREATE OR REPLACE FUNCTION market_run_now()
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare n int := (select count(*) from market_daemons where alive_until > clock_timestamp());
begin
  -- Whose wish is not committed yet keeps nobody's: this one is heard all the same.
  update market_run_wish set asked_at = clock_timestamp()
   where only_row in (select w.only_row from market_run_wish w for update skip locked);
  perform pg_notify('market_jobs', 'run');
  return format('%s live daemon%s asked to run now', n, case when n = 1 then '' else 's' end);
end $function$;
revoke execute on function market_run_now() from public;

CREATE OR REPLACE FUNCTION market_take(p_provider text, p_account text, p_priority integer, p_meter text DEFAULT 'calls'::text, p_after text DEFAULT NULL::text, p_daemon uuid DEFAULT NULL::uuid, p_lead_s double precision DEFAULT 0, OUT granted boolean, OUT reason text, OUT until timestamp with time zone, OUT wait_s double precision, OUT granted_at timestamp with time zone, OUT delay_s double precision, OUT valid_s double precision, OUT receipt text, OUT cost_window timestamp with time zone, OUT step_s double precision)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare p market_providers; s market_settings;
begin
  select * into s from market_settings;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  select c.* into granted, reason, until, wait_s, granted_at, delay_s, valid_s, receipt, cost_window, step_s
    from market__charge(p, s, p_priority, p_meter, p_after, clock_timestamp(), p_daemon, p_lead_s) c;
end $function$;
revoke execute on function market_take(text,text,integer,text,text,uuid,double precision) from public;

CREATE OR REPLACE FUNCTION market_take_block(p_provider text, p_account text, p_lowest integer, p_highest integer, p_calls integer, OUT calls integer, OUT urgent boolean, OUT wake_priority integer, OUT granted_at timestamp with time zone, OUT delay_s double precision, OUT step_s double precision, OUT hold_s double precision, OUT valid_s double precision, OUT receipt text, OUT cost_window timestamp with time zone)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare p market_providers; s market_settings;
begin
  calls := 0;
  select * into s from market_settings;
  wake_priority := s.wake_priority;
  urgent := p_lowest >= s.wake_priority;
  if (urgent = (p_highest >= s.wake_priority)) is not true or coalesce(p_calls, 0) < 2 then
    return;
  end if;
  select * into p from market_providers where provider = p_provider and account = p_account for no key update;
  select c.* into calls, granted_at, delay_s, step_s, hold_s, valid_s, receipt, cost_window
    from market__charge_block(p, s, urgent, p_calls, clock_timestamp()) c;
end $function$;
revoke execute on function market_take_block(text,text,integer,integer,integer) from public;

CREATE OR REPLACE FUNCTION market_unwatch(items jsonb, user_id text DEFAULT NULL::text)
 RETURNS TABLE(ord integer, job_id bigint, result text, wait_reason text, eta timestamp with time zone, error_code text, error_message text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare who text := market__identity(market_unwatch.user_id, current_user); asked market__answer[]; good market__wish[]; gone text[];
begin
  perform market__check_items(items, 'market_unwatch');
  asked := market__asked(items, who);
  good := market__good(asked);
  with mine as materialized (
    select m.dedupe_key, m.user_id from market_watches m
     where (m.dedupe_key, m.user_id) in (select g.dedupe_key, coalesce(g.user_id, '') from unnest(good) g)
     order by m.dedupe_key for update
  ), taken as (
    delete from market_watches m using mine x where (m.dedupe_key, m.user_id) = (x.dedupe_key, x.user_id) returning m.dedupe_key
  ) select array_agg(t.dedupe_key) into gone from taken t;
  perform market__tell_watches(good, gone);
  return query select * from market__answers(asked, gone, 'unwatched', 'not_watched', false);
end $function$;
revoke execute on function market_unwatch(jsonb,text) from public;

CREATE OR REPLACE FUNCTION market_viewed(items jsonb, user_id text DEFAULT NULL::text)
 RETURNS TABLE(ord integer, job_id bigint, result text, wait_reason text, eta timestamp with time zone, error_code text, error_message text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare who text := market__identity(market_viewed.user_id, current_user); asked market__answer[];
begin
  perform market__check_items(items, 'market_viewed');
  asked := market__asked(items, who);
  return query select * from market__answers(asked,
    array(select market__count_views(market__good(asked))), 'counted', 'repeated', false);
end $function$;
revoke execute on function market_viewed(jsonb,text) from public;

CREATE OR REPLACE FUNCTION market_watch(items jsonb, user_id text DEFAULT NULL::text)
 RETURNS TABLE(ord integer, job_id bigint, result text, wait_reason text, eta timestamp with time zone, error_code text, error_message text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  who text := market__identity(market_watch.user_id, current_user); asked market__answer[]; good market__wish[]; added text[]; w market__wish;
begin
  perform market__check_items(items, 'market_watch');
  asked := market__asked(items, who);
  good := market__good(asked);
  -- A first price is owed now, not when the plan comes round to it. The job before its target, as in all other ways of asking.
  foreach w in array good loop
    continue when market__observed_at(w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key) is not null
      or exists (select from market_jobs j where j.dedupe_key = w.dedupe_key and j.status in ('pending', 'running', 'deferred'));
    w.priority := least(100, (select wake_priority - 1 from market_settings));
    w.not_before := null;
    perform market__open(w, false);
  end loop;
  insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
  select g.provider, g.account, g.sku, g.size, g.currency, g.dedupe_key, g.unit_key from unnest(good) g
  on conflict (dedupe_key) do nothing;
  with put as (
    insert into market_watches as m (dedupe_key, user_id, provider, account, sku, size, currency, unit_key)
    select g.dedupe_key, coalesce(g.user_id, ''), g.provider, g.account, g.sku, g.size, g.currency, g.unit_key
      from unnest(good) g on conflict do nothing
    returning m.dedupe_key
  ) select array_agg(p.dedupe_key) into added from put p;
  perform market__tell_watches(good, added);
  return query select * from market__answers(asked, added, 'watched', 'kept', true);
end $function$;
revoke execute on function market_watch(jsonb,text) from public;

CREATE OR REPLACE FUNCTION market_why(job_id bigint)
 RETURNS TABLE(state text, waiting_for text, until timestamp with time zone, eta timestamp with time zone, detail text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
begin
  return query select x.state, x.waiting_for, x.until, x.eta, x.detail
    from market__wait(market_why.job_id, null, 1000) x where x.state is not null and market__may_see(market_why.job_id);
  if not found then
    return query select 'unknown'::text, 'nothing'::text, null::timestamptz, null::timestamptz,
      case when market_why.job_id is null then 'no job id was given (an answer of fresh has none): ask by provider, sku and size'
           else format('no job %s that you may see: finished jobs are pruned after some days, others'' jobs are not shown', market_why.job_id) end;
  end if;
end $function$;
revoke execute on function market_why(bigint) from public;

CREATE OR REPLACE FUNCTION market_why(provider text, sku text, size text DEFAULT NULL::text, currency text DEFAULT NULL::text)
 RETURNS TABLE(state text, waiting_for text, until timestamp with time zone, eta timestamp with time zone, detail text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare w market__wish; id bigint; seen timestamptz;
begin
  w := market__wish(market_why.provider, market_why.sku, market_why.size, market_why.currency, 100, null, market__identity(null, current_user));
  if w.problem is not null then
    raise exception 'market_why: %', w.problem using errcode = '22023';
  end if;
  select j.id into id from market_jobs j where j.dedupe_key = w.dedupe_key and j.status in ('pending', 'running', 'deferred');
  if not found then
    select j.id into id from market_jobs j where j.dedupe_key = w.dedupe_key and j.status in ('done', 'failed')
     order by j.id desc limit 1;
  end if;
  if id is not null then
    -- Of an item everybody may know what it waits for, whoever asked.
    return query select x.state, x.waiting_for, x.until, x.eta, x.detail from market__wait(id, null, 1000) x;
    return;
  end if;
  seen := market__observed_at(w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key);
  return query select case when seen is null then 'never_asked' else 'priced' end, 'nothing'::text, null::timestamptz,
    null::timestamptz, case when seen is null then 'no job was ever asked for this item'
                            else format('priced at %s; no job is open', seen) end;
end $function$;
revoke execute on function market_why(text,text,text,text) from public;
