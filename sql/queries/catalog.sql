-- What skus were found to be.

-- name: known
-- What is known before a fetch, in one row: the cached product with its variants (null when the sku was never found),
-- and the median ask of the other providers for the same item and currency, not older than a week.
-- $1 provider  $2 sku  $3 currency  $4 size
select (select to_jsonb(p) || jsonb_build_object('variants',
          (select coalesce(jsonb_agg(jsonb_build_object('id', v.variant_id, 'size', v.size, 'chart', v.chart,
                                                        'gtins', v.gtins) order by v.variant_id), '[]')
             from market_variants v where v.provider = p.provider and v.product_id = p.product_id))
          from market_skus k join market_products p using (provider, product_id)
         where k.provider = $1 and k.sku = $2) as listing,
       (select percentile_cont(0.5) within group (order by p.lowest_ask)::numeric
          from market_prices p
         where p.sku = $2 and p.provider <> $1 and p.currency = $3 and p.lowest_ask is not null
           and p.observed_at > clock_timestamp() - interval '7 days'
           and coalesce(p.size, '') = coalesce($4::text, '')) as reference;
