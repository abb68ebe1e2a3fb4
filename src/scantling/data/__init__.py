"""From files on disk to typed samples: layouts, inspection, splits, plans, preparation."""
