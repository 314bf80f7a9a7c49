"""What is done and what is to do: journals, receipts, requests, leases, and the jobs made of them."""
