"""What happened to packets, told: events, counters and flows out of the kernel, for people and for Prometheus.

A process of its own. It may die and come back: the agent and the programs do not notice.
"""
