//! The lapin crate drives queues, exchanges, consumers, confirms, transactions, direct replies and errors.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use futures_lite::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    ExchangeKind,
};
use longtail_conformance::{Case, Outcome, equal, run, unique};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long a case may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs a case with a connection of its own.
fn with<F: Future<Output = Outcome>>(
    address: SocketAddr,
    case: impl FnOnce(Connection) -> F,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let uri = format!("amqp://guest:guest@{address}/%2f");
        let work = async {
            let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
            case(connection).await
        };
        tokio::time::timeout(PATIENCE, work).await?
    })
}

/// A queue of the connection's own.
async fn queue_of(channel: &Channel, arguments: FieldTable) -> Result<ShortString> {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare("".into(), options, arguments).await?;
    Ok(queue.name().clone())
}

async fn publish(
    channel: &Channel,
    (exchange, key): (&str, &str),
    body: &[u8],
    properties: BasicProperties,
) -> Result<Confirmation> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let sent = channel.basic_publish(exchange.into(), key.into(), options, body, properties);
    Ok(sent.await?.await?)
}

async fn consume(channel: &Channel, queue: &str, no_ack: bool) -> Result<Consumer> {
    let options = BasicConsumeOptions {
        no_ack,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    Ok(consumer.await?)
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    Ok(consumer.next().await.ok_or("the consumer has ended")??)
}

fn confirms(address: SocketAddr) -> Outcome {
    with(address, |connection| async move {
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let queue = channel
            .queue_declare(
                unique().into(),
                QueueDeclareOptions::durable(),
                FieldTable::default(),
            )
            .await?;
        let properties = || BasicProperties::default().with_delivery_mode(2);
        for number in 0..200_u32 {
            let target = ("", queue.name().as_str());
            let confirmed = publish(&channel, target, &number.to_be_bytes(), properties()).await?;
            equal(confirmed, Confirmation::Ack(None))?;
        }
        let lost = publish(&channel, ("", &unique()), b"lost", properties()).await?;
        let Confirmation::Ack(Some(returned)) = lost else {
            return Err(format!("expected a return, got {lost:?}").into());
        };
        equal(
            (returned.reply_code, &returned.data[..]),
            (312, &b"lost"[..]),
        )?;
        let name = queue.name().clone();
        let deleted = channel.queue_delete(name, QueueDeleteOptions::default());
        equal(deleted.await?, 200)
    })
}

fn consumers(address: SocketAddr) -> Outcome {
    with(address, |connection| async move {
        let (channel, publisher) = (
            connection.create_channel().await?,
            connection.create_channel().await?,
        );
        channel.basic_qos(2, BasicQosOptions::default()).await?;
        let exchange = unique();
        let options = ExchangeDeclareOptions {
            auto_delete: true,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(
                exchange.as_str().into(),
                ExchangeKind::Topic,
                options,
                FieldTable::default(),
            )
            .await?;
        let queue = queue_of(&channel, FieldTable::default()).await?;
        channel
            .queue_bind(
                queue.clone(),
                exchange.as_str().into(),
                "a.#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let mut headers = FieldTable::default();
        headers.insert("n".into(), AMQPValue::LongInt(-5));
        headers.insert("s".into(), AMQPValue::LongString("text".into()));
        let properties = BasicProperties::default().with_headers(headers.clone());
        for body in ["1", "2", "3"] {
            publish(
                &publisher,
                (&exchange, "a.b"),
                body.as_bytes(),
                properties.clone(),
            )
            .await?;
        }
        let mut consumer = consume(&channel, queue.as_str(), false).await?;
        let (first, second) = (next(&mut consumer).await?, next(&mut consumer).await?);
        equal(first.properties.headers(), &Some(headers))?;
        equal((&first.data[..], &second.data[..]), (&b"1"[..], &b"2"[..]))?;
        let requeue = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        first.nack(requeue).await?;
        let again = next(&mut consumer).await?;
        equal((&again.data[..], again.redelivered), (&b"1"[..], true))?;
        for delivery in [again, second] {
            delivery.ack(BasicAckOptions::default()).await?;
        }
        let third = next(&mut consumer).await?;
        equal(&third.data[..], &b"3"[..])?;
        third.ack(BasicAckOptions::default()).await?;
        Ok(())
    })
}

fn transactions(address: SocketAddr) -> Outcome {
    with(address, |connection| async move {
        let channel = connection.create_channel().await?;
        let queue = queue_of(&channel, FieldTable::default()).await?;
        channel.tx_select().await?;
        for (body, commit) in [("lost", false), ("kept", true)] {
            let options = BasicPublishOptions::default();
            let properties = BasicProperties::default();
            channel
                .basic_publish(
                    "".into(),
                    queue.clone(),
                    options,
                    body.as_bytes(),
                    properties,
                )
                .await?;
            if commit {
                channel.tx_commit().await?;
            } else {
                channel.tx_rollback().await?;
            }
        }
        let got = channel
            .basic_get(queue.clone(), BasicGetOptions { no_ack: false })
            .await?;
        let got = got.ok_or("nothing was committed")?;
        equal((&got.data[..], got.message_count), (&b"kept"[..], 0))?;
        got.ack(BasicAckOptions::default()).await?;
        channel.tx_commit().await?;
        let rest = channel
            .basic_get(queue, BasicGetOptions { no_ack: true })
            .await?;
        equal(rest.is_none(), true)
    })
}

fn direct_replies(address: SocketAddr) -> Outcome {
    with(address, |connection| async move {
        let (client, worker) = (
            connection.create_channel().await?,
            connection.create_channel().await?,
        );
        let queue = queue_of(&worker, FieldTable::default()).await?;
        let mut requests = consume(&worker, queue.as_str(), true).await?;
        let mut answers = consume(&client, "amq.rabbitmq.reply-to", true).await?;
        for number in ["1", "2"] {
            let properties = BasicProperties::default()
                .with_reply_to("amq.rabbitmq.reply-to".into())
                .with_correlation_id(number.into());
            publish(&client, ("", queue.as_str()), b"question", properties).await?;
            let request = next(&mut requests).await?;
            let to = request.properties.reply_to().clone().ok_or("no address")?;
            let id = request.properties.correlation_id().clone().ok_or("no id")?;
            let answer = BasicProperties::default().with_correlation_id(id);
            publish(&worker, ("", to.as_str()), b"answer", answer).await?;
            let answer = next(&mut answers).await?;
            equal(&answer.data[..], &b"answer"[..])?;
            let id = answer
                .properties
                .correlation_id()
                .as_ref()
                .map(ShortString::as_str);
            equal(id, Some(number))?;
        }
        Ok(())
    })
}

fn errors(address: SocketAddr) -> Outcome {
    with(address, |connection| async move {
        let channel = connection.create_channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let name = unique();
        let declared = channel
            .queue_declare(name.as_str().into(), options, FieldTable::default())
            .await;
        let error = declared.err().ok_or("it is there")?.to_string();
        equal(error.contains("NOT_FOUND"), true).map_err(|_| error)?;
        let channel = connection.create_channel().await?;
        queue_of(&channel, FieldTable::default()).await?;
        connection.close(200, "bye".into()).await?;
        Ok(())
    })
}

/// Bodies and offsets that a consumer gets which begins there.
async fn read(
    connection: &Connection,
    queue: &str,
    offset: Option<AMQPValue>,
    count: u64,
) -> Result<Vec<(u64, i64)>> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(3, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    if let Some(offset) = offset {
        arguments.insert("x-stream-offset".into(), offset);
    }
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), "".into(), options, arguments);
    let (mut consumer, mut got) = (consumer.await?, Vec::new());
    for _ in 0..count {
        let delivery = next(&mut consumer).await?;
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let Some(AMQPValue::LongLongInt(offset)) = headers.inner().get("x-stream-offset") else {
            return Err(format!("no offset: {headers:?}").into());
        };
        let body = std::str::from_utf8(&delivery.data)?.parse()?;
        got.push((body, *offset));
        delivery.ack(BasicAckOptions::default()).await?;
    }
    channel.close(200, "".into()).await?;
    Ok(got)
}

fn streams(address: SocketAddr) -> Outcome {
    with(address, |connection| async move {
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let mut arguments = FieldTable::default();
        let kind = AMQPValue::LongString("stream".into());
        arguments.insert("x-queue-type".into(), kind);
        let options = QueueDeclareOptions::durable();
        let queue = channel.queue_declare(unique().into(), options, arguments);
        let queue = queue.await?.name().clone();
        for number in 0..10_u64 {
            let body = number.to_string();
            let properties = BasicProperties::default();
            let target = ("", queue.as_str());
            let confirmed = publish(&channel, target, body.as_bytes(), properties).await?;
            equal(confirmed, Confirmation::Ack(None))?;
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let text = |text: &str| AMQPValue::LongString(text.into());
        for (offset, from) in [
            (text("first"), 0),
            (AMQPValue::LongLongInt(4), 4),
            (AMQPValue::LongInt(9), 9),
            (AMQPValue::Timestamp(now.as_secs() - 3600), 0),
            (text("1h"), 0),
        ] {
            let got = read(&connection, queue.as_str(), Some(offset), 10 - from).await?;
            let expected: Vec<_> = (from..10).map(|n| (n, n.cast_signed())).collect();
            equal(got, expected)?;
        }
        let last = read(&connection, queue.as_str(), Some(text("last")), 1).await?;
        equal(last, vec![(9, 9)])?;
        // What comes from now on.
        for (number, offset) in [(10_u64, Some(text("next"))), (11, None)] {
            let reading = read(&connection, queue.as_str(), offset, 1);
            let writing = async {
                // When the consumer is there.
                loop {
                    let options = QueueDeclareOptions {
                        passive: true,
                        ..QueueDeclareOptions::default()
                    };
                    let found =
                        channel.queue_declare(queue.clone(), options, FieldTable::default());
                    if found.await?.consumer_count() > 0 {
                        break;
                    }
                }
                let body = number.to_string();
                let target = ("", queue.as_str());
                publish(&channel, target, body.as_bytes(), BasicProperties::default()).await
            };
            let (read, written) = tokio::join!(reading, writing);
            written?;
            equal(read?, vec![(number, number.cast_signed())])?;
        }
        let deleted = channel.queue_delete(queue, QueueDeleteOptions::default());
        equal(deleted.await?, 12)
    })
}

const CASES: &[Case] = &[
    ("confirms_and_returns", "confirm mandatory", confirms),
    (
        "consumers_with_prefetch",
        "consume ack nack exchange",
        consumers,
    ),
    ("transactions_commit_and_roll_back", "tx", transactions),
    ("answers_without_a_queue", "reply-to", direct_replies),
    (
        "streams_are_read_from_where_the_consumer_says",
        "stream",
        streams,
    ),
    ("an_error_closes_a_channel_only", "errors", errors),
];

fn main() -> ExitCode {
    run(CASES)
}
