"""Images and records from untrusted sources: one unusable record never affects the others."""
