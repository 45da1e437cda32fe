-- What skus were found to be.

-- name: known
-- What is known before a fetch, one row for each of those that begin together: the cached product with its variants (null when
-- the sku was never found); what another provider lists under the sku, one with size charts first; and the median asks of the
-- other providers by US size ('' = none), in the same currency, not older than a week: of all sizes, since only a provider's
-- code can tell which US size a `UK 9` is. An `id:` means something else at each provider.
-- $1 providers  $2 skus  $3 currencies
select f.listing, f.elsewhere, f.asks
  from unnest($1::text[], $2::text[], $3::text[]) with ordinality x(provider, sku, currency, n)
  cross join lateral (
    with cached as (
      select k.provider, to_jsonb(p) || jsonb_build_object('variants', v.variants) as listing, v.charts, v.variants <> '[]' as sized
        from market_skus k join market_products p using (provider, product_id)
        cross join lateral (
          select coalesce(jsonb_agg(jsonb_build_object('id', v.variant_id, 'size', v.size, 'chart', v.chart, 'gtins', v.gtins)
                                    order by v.variant_id), '[]') as variants,
                 count(*) filter (where v.chart <> '{}') as charts
            from market_variants v where v.provider = p.provider and v.product_id = p.product_id) v
       where k.sku = x.sku and (k.provider = x.provider or x.sku not like 'id:%')
    )
    select (select c.listing from cached c where c.provider = x.provider) as listing,
           (select c.listing from cached c where c.provider <> x.provider and c.sized
             order by c.charts desc, c.provider limit 1) as elsewhere,
           (select jsonb_object_agg(m.size, m.ask) from (
              select coalesce(p.size, '') as size, percentile_cont(0.5) within group (order by p.lowest_ask)::numeric as ask
                from market_prices p
               where p.sku = x.sku and p.provider <> x.provider and p.currency = x.currency and p.lowest_ask is not null
                 and x.sku not like 'id:%'
                 and p.observed_at > clock_timestamp() - interval '7 days'
               group by 1) m) as asks) f
 order by x.n;
