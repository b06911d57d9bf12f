"""What a server in use sees, answers and costs: kept in a log, held against a profile and rules, reported as advice."""
