-- Canonical texts of sku, size and currency. The same grammar as daemon/marketd/skus.py and sizes.py; a property
-- test compares the two. Each returns the problem instead of raising, so that one bad item of many is told apart.

create function market__sku(p_text text, out sku text, out problem text)
language plpgsql immutable parallel safe as $$
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
end $$;

-- ASCII only, whatever the database's collation says of other letters.
create function market__upper(p_text text) returns text
language sql immutable parallel safe as
$$ select translate(p_text, 'abcdefghijklmnopqrstuvwxyz', 'ABCDEFGHIJKLMNOPQRSTUVWXYZ') $$;
create function market__lower(p_text text) returns text
language sql immutable parallel safe as
$$ select translate(p_text, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz') $$;

-- A number of at most two digits in half steps, without needless zeros; null when it is anything else or out of range.
-- 9.50 is what an app's numeric(4, 2) sends, as a number or, by drivers that keep its digits, as a text.
create function market__number(p_text text, p_low numeric, p_high numeric) returns text
language sql immutable parallel safe as $$
  select case when p_text ~ '^[0-9]{1,2}([.][05]0{0,20})?$' and p_text::numeric between p_low and p_high
         then trim_scale(p_text::numeric)::text end
$$;

create function market__size(p_text text, p_default_system text, out size text, out problem text)
language plpgsql immutable parallel safe as $$
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
end $$;
