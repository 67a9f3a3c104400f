"""What Prometheus is told of the agent."""

from tests.unit.agent.fakes import FakeDatapath, FakeKernel, World, pod

from pilus_agent.metrics import Metrics


async def test_what_is_there_and_what_is_not_as_wanted(datapath: FakeDatapath) -> None:
    kernel = FakeKernel(datapath)
    world = World(kernel)
    metrics = Metrics("1.2.3")
    async with world.running():
        world.identity(300, pod("web", app="web"))
        world.pod(1, pod("web", app="web"))
        world.begin()
        world.sync()
        await world.realise()
        metrics.update(world.wiring)
        text = (await metrics.text()).decode()
        assert 'pilus_agent_info{version="1.2.3"} 1.0' in text
        assert "pilus_agent_ready 1.0" in text
        assert 'pilus_agent_endpoints{state="ready"} 1.0' in text
        assert 'pilus_agent_table_rows{table="endpoints"} 2.0' in text
        world.wiring.troubles.report("peers", "the table peers is full")
        metrics.update(world.wiring)
        assert 'pilus_agent_trouble{what="peers"} 1.0' in (await metrics.text()).decode()
        world.wiring.troubles.resolve("peers")
        metrics.update(world.wiring)
        assert 'what="peers"' not in (await metrics.text()).decode()
