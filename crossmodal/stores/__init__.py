"""Object stores: paths such as s3://bucket/pairs/train, the process that reads them, and a cache on the local disk."""
