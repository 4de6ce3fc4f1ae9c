"""What every command of this project shares: errors, exit codes, files, storage."""
