"""Sizes, times and version numbers that both ends must agree on."""

from typing import Final

#: Offered and chosen in the websocket handshake.
SUBPROTOCOL: Final = "remotegpu.agent.v1"

#: Versions of the message set this code speaks, best first. The hello picks one.
SUPPORTED_VERSIONS: Final[tuple[int, ...]] = (1,)

#: Bytes of one websocket message on the agents' socket, either way. A sample of 16 GPUs with
#: 64 processes each is about 70 kB.
MAX_MESSAGE_BYTES: Final = 256 * 1024

#: GPUs, MIG devices a GPU, processes a GPU, addresses, disks, SSH host keys, places where sshd listens
#: and accounts with a sign-in of their own of a host, labels of a machine.
MAX_GPUS: Final = 64
MAX_MIG_DEVICES: Final = 16
MAX_PROCESSES_PER_GPU: Final = 128
MAX_ADDRESSES: Final = 64
MAX_DISKS: Final = 128
MAX_HOST_KEYS: Final = 8
MAX_SSH_LISTENERS: Final = 16
MAX_SSH_ACCOUNTS: Final = 64
MAX_LABELS: Final = 64

#: Bytes of a command's arguments and of its result, and places that a cleaning looks at.
MAX_ARGUMENT_BYTES: Final = 128 * 1024
MAX_RESULT_BYTES: Final = 128 * 1024
MAX_SURFACES: Final = 64

#: SSH keys of a user, and so of an account on a host.
MAX_SSH_KEYS: Final = 20

#: Command kinds that a host's policy may enable.
MAX_ENABLED_KINDS: Final = 64
#: Allocations that an inventory names.
MAX_HELD_ALLOCATIONS: Final = 256

#: Commands sent and not accepted yet, and events sent and not acknowledged yet, on one link.
COMMAND_WINDOW: Final = 32
EVENT_WINDOW: Final = 32

#: Seconds after which a command that was not accepted, or an event that was not acknowledged, is
#: sent again over the same link.
COMMAND_RETRY: Final = 10.0
EVENT_RETRY: Final = 10.0

#: Seconds between two reports of a command's progress.
PROGRESS_INTERVAL: Final = 0.25

#: Characters of an error's text.
MAX_ERROR_LENGTH: Final = 2000

#: Seconds from the opening of the socket within which the greeting must be over, on both ends.
HELLO_TIMEOUT: Final = 10.0

#: Seconds between heartbeats; the agent adds up to 10 % of jitter either way.
HEARTBEAT_INTERVAL: Final = 5.0

#: Whatever a control plane asks for, an agent beats no more often and no more seldom.
MIN_HEARTBEAT_INTERVAL: Final = 0.1
MAX_HEARTBEAT_INTERVAL: Final = 60.0

#: Seconds without a byte from the control plane after which an agent drops the link.
LINK_SILENCE: Final = 8.0

#: Whatever a control plane asks for, an agent takes no longer to notice that the link is dead,
#: and waits for at least so many heartbeats' time.
MAX_LINK_SILENCE: Final = 300.0
MIN_SILENT_HEARTBEATS: Final = 1.5

#: Seconds without a message from an agent after which its machine is UNREACHABLE, then LOST.
UNREACHABLE_AFTER: Final = 12.0
LOST_AFTER: Final = 120.0

#: Seconds between samples while nobody watches, and the range that an agent keeps to whatever it
#: is asked for.
SAMPLE_INTERVAL: Final = 5.0
MIN_SAMPLE_INTERVAL: Final = 0.1
MAX_SAMPLE_INTERVAL: Final = 3600.0

#: Seconds by which a sample's time may differ from the host's clock, as the host told it last.
SAMPLE_WINDOW: Final = 60.0

#: Whatever a control plane asks for, an agent that was sent away comes back within so many seconds,
#: and spreads its first attempt after a link that ended over no more.
MAX_RETRY_AFTER: Final = 60.0
MAX_RETRY_SPREAD: Final = 60.0

#: Seconds for which a watch rate holds unless it is renewed.
WATCH_LEASE: Final = 30.0
MAX_WATCH_LEASE: Final = 300.0

#: Seconds after which an inventory that was not acknowledged is sent again.
INVENTORY_RETRY: Final = 15.0

#: Seconds by which two clocks may differ before timestamps are corrected and the host is told.
CLOCK_SKEW_TOLERANCE: Final = 5.0

#: Messages that an agent may send at once and, for long, a second. What it sends beyond is dropped.
MESSAGE_BURST: Final = 120.0
MESSAGE_RATE: Final = 30.0

#: Invalid messages that an open link survives at once; one is forgiven a minute.
MAX_INVALID_MESSAGES: Final = 20
INVALID_FORGIVEN_RATE: Final = 1 / 60

#: Answers to unknown types that either end gives at once and, for long, a second; more are known
#: to be unknown by then.
REPLY_BURST: Final = 20.0
REPLY_RATE: Final = 1.0
