"""The doctor: look at a gateway and its machine from outside, and say what is right, what is odd and what is wrong.

    machine, storage, wires, reach      look: thin, read-only, each with a bound in time     -> facts
    machine_checks, site_checks         judge: pure functions over facts                      -> findings
    checks                              the one table of them
    redact, bundle                      an archive for whoever helps, without secrets

Nothing here disturbs the gateway: log.db is not opened, no serial port is, and no peer but the brokers that the
configuration names is connected to.
"""
