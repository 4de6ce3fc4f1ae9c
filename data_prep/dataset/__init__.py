"""The contract between data_prep and trainer: records and their manifest."""
