"""Getting the file of a set of weights.

* `fetch` gets the file of one entry, `fetch_all` those of several at once.
* `local` says which files are on this machine, and `verify` hashes them again.
* `cache` is the folder of converted files; `folders` searches those that the user names.
* `download` downloads from the Hub and from other addresses. `context`, `progress`, `_session` and
  `hub_errors` help it.
* `advice` says what to do if a file cannot be fetched.
"""
