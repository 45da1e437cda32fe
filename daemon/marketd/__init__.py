"""marketd keeps market prices fresh within the few calls that StockX, Alias and eBay allow."""

__version__ = "0.1.0"
