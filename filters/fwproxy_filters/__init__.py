"""The filters that come with fwproxy; each is written against its public names only."""
