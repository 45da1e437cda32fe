-- What skus were found to be.

-- name: listing
-- The cached product and variants of a sku; no row when it was never found.
select p.product_id, p.style_code, p.name, p.brand, p.category, p.gender, p.image_url, p.url, p.details,
       (select coalesce(jsonb_agg(jsonb_build_object('id', v.variant_id, 'size', v.size, 'chart', v.chart, 'gtins', v.gtins)
                                  order by v.variant_id), '[]')
          from market_variants v where v.provider = p.provider and v.product_id = p.product_id) as variants
  from market_skus k join market_products p using (provider, product_id)
 where k.provider = $1 and k.sku = $2;

-- name: reference_ask
-- Median ask of the other providers for the same item and currency, not older than a week; null when there is none.
select percentile_cont(0.5) within group (order by p.lowest_ask)::numeric
  from market_prices p
 where p.sku = $2 and p.provider <> $1 and p.currency = $3 and p.lowest_ask is not null
   and p.observed_at > clock_timestamp() - interval '7 days'
   and coalesce(p.size, '') = coalesce($4::text, '');
