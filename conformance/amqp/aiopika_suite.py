"""aio-pika: confirms on every channel, robust connections, iterators."""

import asyncio
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import aio_pika  # noqa: E402
from aio_pika import ExchangeType, Message  # noqa: E402
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed, DeliveryError  # noqa: E402
from harness import suite  # noqa: E402
from harness.suite import case, equal  # noqa: E402

#: Seconds that anything may take.
PATIENCE = 20


def drive(function):
    """A case that is a coroutine with a connection."""

    def run(t):
        async def main():
            connection = await aio_pika.connect_robust(f"amqp://guest:guest@{t.host}:{t.port}/")
            async with connection:
                await function(t, connection)

        asyncio.run(asyncio.wait_for(main(), PATIENCE))

    run.__name__ = function.__name__
    return run


@case("publish consume")
@drive
async def many_confirmed_publishes_at_once(t, connection):
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=10)
    queue = await channel.declare_queue(t.unique(), durable=True)
    exchange = await channel.declare_exchange(t.unique(), ExchangeType.TOPIC, auto_delete=True)
    await queue.bind(exchange, "a.*")
    count = 300
    await asyncio.gather(
        *[exchange.publish(Message(b"%d" % n, delivery_mode=2), routing_key="a.b") for n in range(count)]
    )
    got = []
    async with queue.iterator(timeout=PATIENCE) as messages:
        async for message in messages:
            async with message.process():
                got.append(int(message.body))
            if len(got) == count:
                break
    equal(sorted(got), list(range(count)))
    await queue.delete()


@case("mandatory")
@drive
async def what_nobody_wants_is_an_error_if_asked_for(t, connection):
    channel = await connection.channel(on_return_raises=True)
    try:
        await channel.default_exchange.publish(Message(b"x"), routing_key=t.unique(), mandatory=True)
    except DeliveryError:
        return
    raise AssertionError("not returned")


@case("errors")
@drive
async def codes_become_exceptions(t, connection):
    channel = await connection.channel()
    try:
        await channel.get_queue(t.unique())
    except ChannelNotFoundEntity:
        pass
    else:
        raise AssertionError("found")
    channel = await connection.channel()
    name = t.unique()
    queue = await channel.declare_queue(name, durable=True)
    try:
        await channel.declare_queue(name, durable=False)
    except ChannelPreconditionFailed:
        pass
    else:
        raise AssertionError("declared")
    channel = await connection.channel()
    await (await channel.get_queue(name)).delete()
    equal(queue.name, name)


@case("rpc")
@drive
async def answers_come_to_a_queue_of_ones_own(t, connection):
    channel = await connection.channel()
    requests = await channel.declare_queue(t.unique(), auto_delete=True)
    answers = await channel.declare_queue(exclusive=True)

    async def serve(message):
        async with message.process():
            answer = Message(message.body.upper(), correlation_id=message.correlation_id)
            await channel.default_exchange.publish(answer, routing_key=message.reply_to)

    await requests.consume(serve)
    request = Message(b"hello", correlation_id="7", reply_to=answers.name)
    await channel.default_exchange.publish(request, routing_key=requests.name)
    async with answers.iterator(timeout=PATIENCE) as messages:
        async for message in messages:
            async with message.process():
                equal((message.body, message.correlation_id), (b"HELLO", "7"))
            break


@case("reply-to")
@drive
async def answers_come_to_the_channel_itself(t, connection):
    channel, other = await connection.channel(), await connection.channel()
    queue = await other.declare_queue(t.unique(), auto_delete=True)

    async def serve():
        async with queue.iterator(timeout=PATIENCE) as requests:
            async for request in requests:
                async with request.process():
                    answer = Message(request.body.upper(), correlation_id=request.correlation_id)
                    await other.default_exchange.publish(answer, routing_key=request.reply_to)
                return

    server = asyncio.ensure_future(serve())
    replies = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
    answered = asyncio.get_running_loop().create_future()
    await replies.consume(answered.set_result, no_ack=True)
    request = Message(b"hello", correlation_id="7", reply_to="amq.rabbitmq.reply-to")
    await channel.default_exchange.publish(request, routing_key=queue.name)
    answer = await answered
    equal((answer.body, answer.correlation_id), (b"HELLO", "7"))
    await server


@case("tx")
@drive
async def transactions_commit_or_roll_back(t, connection):
    channel = await connection.channel(publisher_confirms=False)
    queue = await channel.declare_queue(t.unique(), exclusive=True)
    async with channel.transaction():
        await channel.default_exchange.publish(Message(b"kept"), routing_key=queue.name)
        equal((await queue.declare()).message_count, 0)
    try:
        async with channel.transaction():
            await channel.default_exchange.publish(Message(b"lost"), routing_key=queue.name)
            raise KeyError
    except KeyError:
        pass
    message = await queue.get(timeout=PATIENCE)
    await message.ack()
    equal(message.body, b"kept")
    equal(await queue.get(fail=False), None)


if __name__ == "__main__":
    suite.run()
