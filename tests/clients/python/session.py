"""A Python MCP client under test: connects, lists, makes one call for each line on stdin, and closes when stdin does.

stdout carries one JSON event a line. The last one, `closed`, has every record that any logger got at WARNING or above and every
Python warning: a server that behaves gives a client no reason for one. stderr is left to the libraries, for the test to read.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import logging
import sys

# What was logged. Collected where all records pass, because some libraries do not let theirs reach the root logger.
complaints = []
call_handlers = logging.Logger.callHandlers


def record(logger, entry):
    if entry.levelno >= logging.WARNING:
        complaints.append(f"{entry.levelname} {entry.name}: {entry.getMessage()}")
    call_handlers(logger, entry)


logging.Logger.callHandlers = record
logging.captureWarnings(True)


def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def plain(model):
    """The JSON form of a pydantic model, as it would be on the wire."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def version(package):
    return importlib.metadata.version(package)


def size(contents):
    """How many characters a resource has, as text or in base64."""
    return len(getattr(contents[0], "text", None) or contents[0].blob)


class Fastmcp:
    """fastmcp's Client, 4.x and 3.x."""

    library = "fastmcp"

    def __init__(self, url, mode):
        import fastmcp

        self.client = fastmcp.Client(url, **({"mode": mode} if mode else {}))

    @contextlib.asynccontextmanager
    async def connected(self):
        async with self.client:
            yield self

    async def facts(self):
        if hasattr(self.client, "server_capabilities"):
            return self.client.protocol_version, self.client.server_capabilities
        result = self.client.initialize_result
        return result.protocolVersion, result.capabilities

    async def tools(self):
        return [plain(tool) for tool in await self.client.list_tools()]

    async def resources(self):
        return [str(resource.uri) for resource in await self.client.list_resources()]

    async def prompts(self):
        return [prompt.name for prompt in await self.client.list_prompts()]

    async def read(self, uri):
        return size(await self.client.read_resource(uri))

    async def call(self, tool, arguments):
        return plain(await self.client.call_tool_mcp(tool, arguments))


class Mcp2:
    """The official SDK 2.x: `mcp.Client`."""

    library = "mcp"

    def __init__(self, url, mode):
        import mcp

        self.client = mcp.Client(url, mode=mode or "auto")

    @contextlib.asynccontextmanager
    async def connected(self):
        async with self.client:
            yield self

    async def facts(self):
        return self.client.protocol_version, self.client.server_capabilities

    async def tools(self):
        return [plain(tool) for tool in (await self.client.list_tools()).tools]

    async def resources(self):
        return [str(resource.uri) for resource in (await self.client.list_resources()).resources]

    async def prompts(self):
        return [prompt.name for prompt in (await self.client.list_prompts()).prompts]

    async def read(self, uri):
        return size((await self.client.read_resource(uri)).contents)

    async def call(self, tool, arguments):
        return plain(await self.client.call_tool(tool, arguments))


class Mcp1(Mcp2):
    """The official SDK 1.x: `ClientSession` on a transport."""

    def __init__(self, url, mode):
        assert mode is None, "mcp 1.x knows one way"
        self.url = url

    @contextlib.asynccontextmanager
    async def connected(self):
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        async with streamable_http_client(self.url) as (read, write, _), ClientSession(read, write) as session:
            self.client = session
            self.initialized = await session.initialize()
            yield self

    async def facts(self):
        return self.initialized.protocolVersion, self.initialized.capabilities


class Agents:
    """The OpenAI Agents SDK: its tools as an agent would invoke them, without a model."""

    library = "openai-agents"

    def __init__(self, url, mode):
        from agents.mcp import MCPServerStreamableHttp

        assert mode is None, "the Agents SDK knows one way"
        self.client = MCPServerStreamableHttp(params={"url": url}, client_session_timeout_seconds=30, use_structured_content=True)

    @contextlib.asynccontextmanager
    async def connected(self):
        await self.client.connect()
        try:
            yield self
        finally:
            await self.client.cleanup()

    async def facts(self):
        session = self.client.session
        if hasattr(session, "server_capabilities"):
            return session.protocol_version, session.server_capabilities
        result = self.client.server_initialize_result
        return result.protocolVersion, result.capabilities

    async def tools(self):
        from agents import Agent
        from agents.mcp import MCPUtil
        from agents.run_context import RunContextWrapper

        agent = Agent(name="secretary", mcp_servers=[self.client])
        tools = await MCPUtil.get_all_function_tools([self.client], False, RunContextWrapper(None), agent)
        self.functions = {tool.name: tool for tool in tools}
        return [plain(tool) for tool in await self.client.list_tools()]

    async def resources(self):
        return [str(resource.uri) for resource in (await self.client.list_resources()).resources]

    async def prompts(self):
        return [prompt.name for prompt in (await self.client.list_prompts()).prompts]

    async def read(self, uri):
        return size((await self.client.read_resource(uri)).contents)

    async def call(self, tool, arguments):
        from agents.tool_context import ToolContext

        text = json.dumps(arguments)
        context = ToolContext(context=None, tool_name=tool, tool_call_id="call_1", tool_arguments=text)
        said = await self.functions[tool].on_invoke_tool(context, text)
        return {"structuredContent": json.loads(said if isinstance(said, str) else said["text"]), "isError": False}


async def lines():
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def run(client):
    async with client.connected():
        protocol, capabilities = await client.facts()
        resources = await client.resources()
        emit(
            "connected",
            library=f"{client.library} {version(client.library)}, mcp {version('mcp')}",
            protocolVersion=protocol,
            tools=[tool["name"] for tool in await client.tools()],
            resources=resources,
            # A server that has none does not say that it has, and is not asked.
            prompts=await client.prompts() if capabilities.prompts else [],
            read=await client.read(resources[0]) if resources else 0,
        )
        async for call in lines():
            try:
                emit("call-ok", result=await client.call(call["tool"], call["arguments"]))
            except Exception as error:
                emit("call-error", error=f"{type(error).__name__}: {error}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=["fastmcp", "mcp", "agents"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--mode", help="how the protocol is negotiated, for libraries of 2026-07-28: auto or legacy")
    options = parser.parse_args()
    mcp = Mcp2 if int(version("mcp").split(".")[0]) >= 2 else Mcp1
    client = {"fastmcp": Fastmcp, "mcp": mcp, "agents": Agents}[options.library](options.url, options.mode)
    asyncio.run(run(client))
    emit("closed", warnings=complaints)


main()
