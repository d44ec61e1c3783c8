from agent.cli.app import main as main
