"""Owns the wire contract: what is said on the bus, and a client that says it.

An Orchestrator needs `protocol.client` alone::

    async with client.connect("nats://host:4222") as agent:
        accepted = await agent.submit(template="time-series-forecast", params={...})
        async for entry in agent.follow(accepted.run_id):
            print(entry.event)

`commands` is what is asked, `events` what happened, `pipelines` what can be run, `training` and
`swarm` the contracts with other agents, `artifacts` references to data, `problems` errors as sent.
`subjects` names every subject and stream; `codec` turns bytes into messages; `cloudevents` writes
an event's headers; `chain` checks a journal.

Glossary: a *run* is one execution of a *pipeline*, a graph of *stages*; an *attempt* is one try of
a stage; an *event* is a fact about a run; a *commit* is events stored together; the *journal* is a
run's commits; a *ticket* is an accepted run waiting for an owner; the *owner* is the agent that
holds a run, and its *epoch* grows with every take-over.
"""
