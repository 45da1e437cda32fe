-- Takes over a database of the first system. Run it before `marketd migrate`, and once more after it, as the owner of
-- the tables, with every daemon and app of the old system stopped:
--
--   psql "$MARKETD_DSN" -v ON_ERROR_STOP=1 -f sql/legacy.sql && marketd migrate && psql ... -f sql/legacy.sql
--
-- First half (no market_schema yet): tables, views and functions of public whose names the new schema takes move to the
-- schema market_legacy, as they are. Old views and triggers go on reading the moved tables; other objects stay.
-- Second half (the new schema is there): the last known StockX prices and the requests that were still open are copied.
-- Old columns are read by name through jsonb, so columns that a database does not have count as null. Nothing is
-- deleted, and a half that was done is not done again; market_legacy is yours to drop.

set search_path = public;
set standard_conforming_strings = on;

-- The names that the new schema takes. Whatever else begins with market_ belongs to your apps and stays where it is.
create or replace function pg_temp.taken_names() returns text[] language sql as $$
  select regexp_split_to_array(trim('
    market__ahead market__ahead_s market__answer market__answer_s market__answers market__asked
    market__background_first market__basis_kind market__calls_since market__candidate market__candidates
    market__carry market__charge market__charge_block market__check_items market__claimable market__closed
    market__count_view market__count_views market__due_at market__early market__enrich market__eta market__fold
    market__fold_into market__good market__guard market__hold market__identity market__image_key market__is_probe
    market__item market__keep_listings market__lane market__lane_state market__learn market__learn_bit
    market__learn_demand market__limit market__limits market__lower market__may_see market__merge
    market__move_watches market__note_plan market__note_refusal market__number market__observed_at market__oldest
    market__open market__open_met market__open_new market__opened market__pace market__plain_insert market__plan
    market__plan_open market__plan_share market__plan_target market__price_status market__rank_waiting
    market__shares market__shown_quota market__shown_shares market__shown_verdict market__size market__sku
    market__still market__taken market__tell_watches market__trusted market__turn market__typical_view_rate
    market__upper market__values market__verdict market__wait market__window market__wish market__wishes
    market__worth market_account_users market_budget_status market_budgets market_catalog market_daemons
    market_dead_letters market_enqueue market_enqueue_many market_enrich market_fetches market_fold_requests
    market_freshness market_give_back market_give_back_block market_grants market_job_requests market_job_runs
    market_jobs market_move market_pause market_plan market_planner market_plans market_price_history
    market_price_status market_prices market_products market_provider_metrics market_providers market_queue_status
    market_rates market_reconcile market_refresh market_reopen market_report market_request_audit market_requests
    market_resume market_retry market_run_now market_run_wish market_settings market_signals market_skus market_take
    market_take_block market_targets market_units market_unwatch market_variants market_viewed market_watch
    market_watches market_why stockx_market_prices
  ', E' \n'), '\s+')
$$;

create or replace function pg_temp.in_the_way() returns table (kind text, name text) language sql as $$
  select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
                        when 'S' then 'sequence' else 'table' end, c.oid::regclass::text
    from pg_class c
   where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
     and c.relname = any (pg_temp.taken_names())
   union all
  select case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end, p.oid::regprocedure::text
    from pg_proc p
   where p.pronamespace = 'public'::regnamespace and p.proname = any (pg_temp.taken_names())
   order by 1, 2
$$;

create or replace function pg_temp.move_old() returns text language plpgsql as $$
declare o record; moved text[] := '{}';
begin
  create schema if not exists market_legacy;
  for o in select w.kind, w.name from pg_temp.in_the_way() w loop
    execute format('alter %s %s set schema market_legacy', o.kind, o.name);
    moved := moved || o.name;
  end loop;
  return format('moved to market_legacy: %s; next: marketd migrate, then this script again', array_to_string(moved, ', '));
end $$;

-- Only what the old system knew for certain: a price of an item that can be read, with 0 and less as "none".
create or replace function pg_temp.copy_prices() returns text language plpgsql as $$
declare o jsonb; w record; seen timestamptz; ask numeric; bid numeric; sale numeric; copied int := 0; skipped int := 0;
begin
  if to_regclass('market_legacy.stockx_market_prices') is null then
    return 'no old prices';
  end if;
  for o in execute 'select to_jsonb(x) from market_legacy.stockx_market_prices x' loop
    select x.* into w from market__wish('stockx', o ->> 'sku', o ->> 'size', o ->> 'currency', 100, null, null) x;
    begin
      seen := least(now(), coalesce((o ->> 'observed_at')::timestamptz, (o ->> 'fetched_at')::timestamptz,
                                    (o ->> 'updated_at')::timestamptz, (o ->> 'created_at')::timestamptz, now() - interval '30 days'));
      ask := nullif(greatest((o ->> 'lowest_ask')::numeric, 0), 0);
      bid := nullif(greatest((o ->> 'highest_bid')::numeric, 0), 0);
      sale := nullif(greatest((o ->> 'last_sale')::numeric, 0), 0);
    exception when data_exception then
      w.problem := 'unreadable';
    end;
    -- A price is kept under the provider's own US size, which another system's size does not tell.
    if w.problem is not null or w.size like '% %' or num_nulls(ask, bid, sale) = 3
       or exists (select from market_prices p where p.provider = w.provider and p.account = w.account and p.sku = w.sku
                  and coalesce(p.size, '') = coalesce(w.size, '') and p.currency = w.currency and p.observed_at >= seen) then
      skipped := skipped + 1;
      continue;
    end if;
    insert into market_prices as p (provider, account, sku, size, currency, lowest_ask, highest_bid, last_sale, observed_at, changed_at)
    values (w.provider, w.account, w.sku, w.size, w.currency, ask, bid, sale, seen, seen)
    on conflict (provider, account, sku, coalesce(size, ''), currency) do update set
      lowest_ask = excluded.lowest_ask, highest_bid = excluded.highest_bid, last_sale = excluded.last_sale,
      observed_at = excluded.observed_at, changed_at = excluded.changed_at
    where p.observed_at < excluded.observed_at;
    insert into market_price_history (provider, account, sku, size, currency, lowest_ask, highest_bid, last_sale, observed_at)
    values (w.provider, w.account, w.sku, w.size, w.currency, ask, bid, sale, seen) on conflict do nothing;
    insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key, price_size, last_outcome,
                                observed_at, last_success_at)
    values (w.provider, w.account, w.sku, w.size, w.currency, w.dedupe_key, w.unit_key, w.size,
            case when ask is null then 'no_asks' else 'priced' end, seen, seen)
    on conflict (dedupe_key) do nothing;
    copied := copied + 1;
  end loop;
  return format('%s prices copied, %s left out (unreadable, empty, or known better)', copied, skipped);
end $$;

-- What was asked for and not answered. Old words for "still open" are taken generously; urgency and owner are kept.
create or replace function pg_temp.copy_jobs() returns text language plpgsql as $$
declare o jsonb; copied int := 0; skipped int := 0;
begin
  if to_regclass('market_legacy.market_jobs') is null then
    return 'no old requests';
  end if;
  for o in execute 'select to_jsonb(x) from market_legacy.market_jobs x' loop
    continue when lower(coalesce(o ->> 'status', 'pending')) not in
      ('pending', 'queued', 'waiting', 'scheduled', 'retrying', 'deferred', 'running', 'processing', 'in_progress', 'claimed');
    begin
      perform market_enqueue(coalesce(o ->> 'provider', 'stockx'), o ->> 'sku', o ->> 'size',
        least(1000, greatest(0, coalesce((o ->> 'priority')::numeric, 100)))::int, o ->> 'user_id',
        nullif((o ->> 'not_before')::timestamptz, 'infinity'), o ->> 'currency');
      copied := copied + 1;
    exception when data_exception then  -- 22023 of market_enqueue, or a value that is no number or time
      raise notice 'left out request % for % %: %', o ->> 'id', o ->> 'sku', o ->> 'size', sqlerrm;
      skipped := skipped + 1;
    end;
  end loop;
  return format('%s open requests copied, %s left out', copied, skipped);
end $$;

do $$
begin
  if to_regclass('public.market_schema') is null then
    if not exists (select from pg_temp.in_the_way()) then
      raise notice 'there is nothing of the first system here; run: marketd migrate';
    else
      raise notice '%', pg_temp.move_old();
    end if;
  elsif to_regnamespace('market_legacy') is null then
    raise notice 'there is no market_legacy to copy from';
  elsif to_regclass('market_legacy.copied') is not null then
    raise notice 'it was copied before; drop schema market_legacy cascade when you need it no longer';
  else
    raise notice '%', pg_temp.copy_prices();
    raise notice '%', pg_temp.copy_jobs();
    create table market_legacy.copied as select now() as at;
  end if;
end $$;

drop function pg_temp.move_old(), pg_temp.in_the_way(), pg_temp.taken_names(), pg_temp.copy_prices(), pg_temp.copy_jobs();
