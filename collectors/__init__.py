"""Where flows come from: one file per source. What several share stands in the rooms beside them:
:mod:`collectors.packets`, :mod:`collectors.captures`, :mod:`collectors.flowtable`, :mod:`collectors.host`."""
