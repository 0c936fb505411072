"""Pictures and records from strangers: read without surprises, one bad one never a surprise for the others."""
