"""The help texts. The first line of each is its summary in `marketd --help`."""

MAIN = """
    Keeps market prices fresh within scarce API budgets.

    Apps ask for prices in plain SQL (market_enqueue) or with `marketd enqueue`; the daemon, `marketd run`,
    fetches the most valuable ones first, stays within every limit of every provider, and says why a price is
    not there yet. To see it work without any account: `marketd demo`.
"""

MAIN_END = """
    Exit codes: 0 done, 1 failed, 2 wrong usage, 75 try again later, 78 configuration or schema to be put right.

    First steps with a Postgres of your own:
      export MARKETD_DSN=postgresql://user@host/database
      marketd check-config && marketd migrate && marketd run
"""

RUN = """
    Run the daemon until SIGTERM or Ctrl-C.

    It needs a database with the schema of this version (`marketd migrate`) and a configuration without
    faults; else it exits 78 and says what to do. SIGHUP reads the configuration again: the new one is taken
    as a whole, or, if anything is wrong with it, not at all. Several daemons may share one database.

    Examples:
      marketd run
      marketd run --config /etc/marketd/config.yaml
"""

TICK = """
    Do one pass of the scheduler and the work that waits, then end; for hosts that have cron and no daemons.

    It works until nothing that waits could start before the deadline, and is over by then. Ticks may be run as
    often as one likes, any number at once, and beside daemons: budgets and leases hold over all of them, a pass
    is done once per scheduler.interval, and a fourth tick on one database ends at once. What is asked for
    between two ticks waits for the next one. Its log goes to stderr.

    Examples:
      * * * * *  marketd tick --within 50s         (in a crontab: nearly a daemon)
      marketd tick --within 14m --json             every quarter of an hour
"""

DEMO = """
    See it work: a Postgres, the three providers' stand-ins and the daemon, all on this machine.

    Ten shoes are asked of StockX, Alias and eBay at the highest priority, then other work in the
    background, within real budgets of 100, 200 and 150 calls an hour. No account is needed and nothing is
    sent to the internet. It goes on until Ctrl-C; data stays for the next time.
    While it runs, `marketd status`, `why`, `jobs` and `enqueue` in another terminal speak with it.

    Examples:
      marketd demo
      marketd demo --once          end when every price is there, or the reason why not
"""

SANDBOX = """
    Serve stand-ins of StockX, Alias and eBay on this machine.

    They answer as the providers do, with their limits, tokens and oddities, about made-up prices. At start
    the settings to put under `providers:` in a configuration are printed. GET /_sandbox/ tells how to
    cause faults, see the requests that came in, and ask for the true prices.

    Examples:
      marketd sandbox --products 500 --move-every 5s
      marketd sandbox --port 9470 --no-limits
"""

STATUS = """
    Show the queue, the budgets, how fresh prices are, the lanes and why they do not run, last runs, errors.

    A lane is one provider account. `urgent` and `background` say whether such a call may leave now, or what
    it waits for. The bands of the queue are manual (priority 200 and more), hot (from scheduler.wake_priority,
    150, on), and background (below).

    Examples:
      marketd status
      marketd status --live --every 1s
      marketd status --json | jq .budgets
"""

WHY = """
    Say what a job, or an item, waits for, and until when.

    It waits for one of: budget (calls of the hour or day are spent), pace (calls are spaced), cooldown (the
    provider throttles us or refuses our credentials; or the item failed before), circuit (the provider
    fails), paused (by an operator), off (no credentials, or switched off), rank (others go first),
    not_before (its own time), running, no_daemon, nothing.

    Examples:
      marketd why 4711
      marketd why stockx DD1391-100 10
      marketd why alias DD1503-103 7.5W --currency USD
"""

JOBS = """
    List jobs, the newest first (or, with --oldest, those that have been due for longest).

    A job is one request to refresh the price of one item: pending (may run now), running, deferred (waits
    for a time), done or failed. `marketd why ID` tells more about one, `marketd retry` wakes failed ones.

    Examples:
      marketd jobs --state open --older 1h
      marketd jobs --state pending --band manual --oldest
      marketd jobs --state failed --provider stockx --error unknown_sku --limit 500
      marketd jobs --state failed --json | jq '.[].sku'
"""

ENQUEUE = """
    Ask for the present price of an item.

    The answer is one of: queued (a new job), merged (such a job is open already), raised (likewise, and it
    is more urgent now), fresh (the stored price is younger than jobs.fresh_for: no job, no call). Priority
    manual and hot start at once; background, the default, is fetched as the budget allows.
    A bare size is a US men's size; 7.5W is women's, 5Y youth's, 9C children's.

    Examples:
      marketd enqueue stockx DD1391-100 10 --priority manual
      marketd enqueue ebay DD1503-103 7.5W --not-before 15m
      marketd enqueue stockx 'name:Bearbrick Mandalorian 1000%'
"""

PLAN = """
    Show what is refreshed next in the background, and why.

    A call's value is how many views it is expected to turn from a wrong price to the right one, from how
    often an item is viewed, how often its price changes, and how old it is. `holds` is the chance that the
    stored price is still right. Only watched items are planned; what apps ask for stands among them.

    Examples:
      marketd plan
      marketd plan --provider stockx --limit 100 --json
"""

WATCH = """
    Keep the price of an item fresh from now on, as well as the budget allows.

    Items that are viewed more, or whose prices move more, are refreshed more often; apps tell of views with
    market_viewed. The first price is asked for at once. An item stays watched until each user who watches
    it has stopped.

    Examples:
      marketd watch stockx DD1391-100 10
      marketd watch ebay 'name:Charizard Base Set' 'PSA 9' --user anna
"""

UNWATCH = """
    Stop keeping the price of an item fresh.

    The stored price stays. Without --user it ends the watch that was begun without one.

    Examples:
      marketd unwatch stockx DD1391-100 10
"""

RETRY = """
    Put failed jobs back into the queue, and say how many.

    Without any argument: all failed jobs, each item once. A job whose item is asked for again already is
    merged into that request. `marketd jobs --state failed` lists what would be taken. A job that is named and has
    not failed is told, and the command ends with 1.

    Examples:
      marketd retry --provider stockx --error timeout
      marketd retry 4711 4712
"""

PAUSE = """
    Send no more requests to a provider until `marketd resume`.

    Fetches that are under way end; what is asked for waits. The pause outlives restarts of the daemon.

    Examples:
      marketd pause stockx credentials are being changed
"""

RESUME = """
    End a pause of a provider, and a cool-down or open circuit as well.

    Use it when the reason is known to be gone: the next request then leaves at once.

    Examples:
      marketd resume stockx
"""

MIGRATE = """
    Bring the database's schema up to this version; do it before the daemon of this version starts.

    All missing steps are applied in one transaction, or none. It may be repeated, and run by several at
    once. With a newer schema than this version knows it exits 78 and changes nothing. It is for the schema's
    owner; --roles, which is optional, makes roles as well, so that the owner needs CREATEROLE the first time.

    Examples:
      marketd migrate --plan
      marketd migrate --roles
"""

CHECK_CONFIG = """
    Check a configuration and tell everything wrong with it, as file:line:col: key: reason.

    It exits 0 when the daemon would take it, else 78: every provider that is on is built as for a start.
    Neither a database nor a provider is asked.

    Examples:
      marketd check-config --config new.yaml && systemctl reload marketd
      marketd check-config --schema > config.schema.json
"""

AUTH = """
    Log in at StockX once, and keep the refresh token for the daemon.

    StockX gives no token to a program alone. The address to open in a browser is printed; after the login the
    browser is sent to the redirect URI. On this machine (localhost) marketd listens there itself; elsewhere,
    or with --paste, the address that the browser ends at is pasted here, even if that page does not load.
    client_id and client_secret come from the configuration. The token is kept under state_dir, mode 0600, and
    used where the configuration sets no refresh_token; a daemon that runs takes it up within seconds. Do it
    again when the daemon reports invalid_grant.

    Examples:
      marketd auth stockx
      marketd auth stockx --redirect-uri https://shop.example/callback
      ssh server marketd auth stockx --paste
"""

VERSION = """
    Print the versions of marketd and of the database schema that it needs.

    Examples:
      marketd version --json
"""
