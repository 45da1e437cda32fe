-- What skus were found to be.

-- name: known
-- What is known before a fetch, one row for each of those that begin together: the cached product with its variants (null when
-- the sku was never found); what another provider lists under the sku, one with size charts first; and the median ask of the
-- other providers for the same item and currency, not older than a week. An `id:` means something else at each provider.
-- $1 providers  $2 skus  $3 currencies  $4 sizes
select f.listing, f.elsewhere, f.reference
  from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality x(provider, sku, currency, size, n)
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
           (select percentile_cont(0.5) within group (order by p.lowest_ask)::numeric
              from market_prices p
             where p.sku = x.sku and p.provider <> x.provider and p.currency = x.currency and p.lowest_ask is not null
               and x.sku not like 'id:%'
               and p.observed_at > clock_timestamp() - interval '7 days'
               and coalesce(p.size, '') = coalesce(x.size, '')) as reference) f
 order by x.n;
