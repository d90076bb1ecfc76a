local journal = nil
