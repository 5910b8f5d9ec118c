"""Get the file of a set of weights.

* `fetch` gets the file of one entry of the manifest. `fetch_all` gets the files of several entries at once.
* `local` finds the files that are on this machine. `verify` hashes them again.
* `cache` manages the folder of converted files. `folders` searches the folders in `PYRAMIDZOO_ORIGINS`.
* `download` downloads from the Hub and from other addresses. It uses `context` (cancelling), `progress` (the progress
  bar), `_session` (the HTTP connection) and `hub_errors` (messages).
* `advice` says what a user can do if a file cannot be fetched.
"""
