#include "store.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

namespace fastswitch::cuda {

namespace {

// A plan is cut into chunks, and no more than two of them are in flight: what a step uploads or reads back itself takes
// its turn on the same copy engines, where priorities of streams do not count, and must not queue behind a whole swap.
// 16 MiB take 0.3 ms over PCIe 5: long beside the time in which this thread is woken to issue the next, short beside a
// step. The number of copies bounds how long one call keeps the driver's lock from the thread that launches.
constexpr size_t chunkBytes = size_t{16} << 20;
constexpr size_t chunkCopies = 512;
// A step that was announced and does not come holds copies up for no longer than this.
constexpr auto announcedFor = std::chrono::milliseconds(2);
// The driver's copies have no memmove. A piece that overlaps its own target is moved in parts that do not, as many as
// its length holds the way it moves; more than this many would be a piece that nobody means.
constexpr size_t maxOverlapParts = 4096;
constexpr size_t stagingBytes = size_t{1} << 20;
constexpr int defaultPriority = 0;
constexpr int streamOrder = 1;
constexpr unsigned preferOverlapWithCompute = 1;
// What a driver answers that has a call and does not take it: nothing is broken.
constexpr int invalidValueResult = 1;
constexpr int notSupportedResult = 801;
// Of device memory, for what the driver takes by itself when kernels are first run: their code, their stacks, graphs.
constexpr size_t driverBytes = size_t{256} << 20;

std::string inGiB(size_t bytes) {
  char text[32];
  snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / static_cast<double>(size_t{1} << 30));
  return text;
}

Address addressOf(const uint8_t* memory) { return static_cast<Address>(reinterpret_cast<uintptr_t>(memory)); }
int lineKind(Direction direction) { return direction == Direction::hostToDevice ? 1 : 0; }

// Hands out a list of copies chunk by chunk.
class Cutter {
 public:
  explicit Cutter(const std::vector<Piece>& pieces) : pieces_(pieces) {}

  // Fills `chunk` and answers how many copies it has; 0: all were handed out.
  size_t next(Piece (&chunk)[chunkCopies]) {
    size_t count = 0;
    size_t room = chunkBytes;
    while (at_ < pieces_.size() && count < chunkCopies && room > 0) {
      const Piece& piece = pieces_[at_];
      const size_t bytes = std::min(room, piece.bytes - done_);
      if (bytes > 0) chunk[count++] = {piece.from + done_, piece.to + done_, bytes};
      done_ += bytes;
      room -= bytes;
      if (done_ < piece.bytes) continue;
      done_ = 0;
      at_++;
    }
    return count;
  }

 private:
  const std::vector<Piece>& pieces_;
  size_t at_ = 0;
  size_t done_ = 0;  // bytes of the piece at `at_`
};

// The same moves in an order in which no copy reads what one before it has overwritten, and none overlaps itself.
Status orderWithin(const std::vector<Piece>& pieces, std::vector<Piece>* ordered) {
  for (const Piece& piece : pieces) {
    const size_t distance = piece.from > piece.to ? piece.from - piece.to : piece.to - piece.from;
    if (distance == 0 || piece.bytes == 0) continue;
    const size_t parts = (piece.bytes + distance - 1) / distance;
    if (parts > maxOverlapParts) {
      return fail(Status::badRun, "a piece of %zu bytes moves by %zu within the device, over itself; not more than %zu times its way is possible", piece.bytes,
                  distance, maxOverlapParts);
    }
    for (size_t i = 0; i < parts; i++) {
      // Towards the start: the first part first; towards the end: the last part first.
      const size_t part = piece.to < piece.from ? i : parts - 1 - i;
      const size_t offset = part * distance;
      ordered->push_back({piece.from + offset, piece.to + offset, std::min(distance, piece.bytes - offset)});
    }
  }
  return Status::ok;
}

}  // namespace

// Takes an idle line of the right kind, or opens one: there are never more than transfers ran at once.
class CudaStore::Use {
 public:
  Use(CudaStore& store, Direction direction) : store_(store), kind_(lineKind(direction)) {}
  ~Use() {
    if (line_ == nullptr) return;
    const std::lock_guard<std::mutex> lock(store_.mutex_);
    store_.idle_[kind_].push_back(line_);
  }
  Status open() {
    {
      const std::lock_guard<std::mutex> lock(store_.mutex_);
      std::vector<Line*>& idle = store_.idle_[kind_];
      if (!idle.empty()) {
        line_ = idle.back();
        idle.pop_back();
        return Status::ok;
      }
    }
    std::unique_ptr<Line> fresh;
    const Status status = store_.openLine(&fresh);
    if (status != Status::ok) return status;
    line_ = fresh.get();
    const std::lock_guard<std::mutex> lock(store_.mutex_);
    store_.lines_.push_back(std::move(fresh));
    return Status::ok;
  }
  Line& line() { return *line_; }

 private:
  CudaStore& store_;
  int kind_;
  Line* line_ = nullptr;
};

Status createCudaStore(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, const StoreOptions& options, std::shared_ptr<KvStore>* store) {
  auto fresh = std::make_shared<CudaStore>();
  const Status status = fresh->reserve(blockBytes, deviceBlocks, hostBlocks, options);
  if (status == Status::ok) *store = std::move(fresh);
  return status;
}

Status CudaStore::reserve(size_t blockBytesWanted, size_t deviceBlocksWanted, size_t hostBlocksWanted, const StoreOptions& options) {
  blockBytes = blockBytesWanted;
  deviceBlocks = deviceBlocksWanted;
  hostBlocks = hostBlocksWanted;
  device = options.device;
  Status status = Gpu::open(options.device, &gpu_);
  if (status == Status::ok) status = gpu_->enter();
  if (status != Status::ok) return status;
  const Driver& driver = gpu_->driver();
  batch_ = options.batchCopies && (driver.copyBatch != nullptr || driver.copyBatchFirst != nullptr);
  for (Event& event : stepEvents_) {
    status = check(driver.eventCreate(&event, eventBlockingSync | eventDisableTiming), "cuEventCreate");
    if (status != Status::ok) return status;
  }
  status = reserveDevice();
  if (status != Status::ok) return status;
  const size_t hostBytes = bytesOf(Memory::host);
  if (hostMemory_.reserve(*gpu_, hostBytes) != Status::ok) {
    const std::string cause = lastMessage();
    return fail(Status::noMemory, "%s of host memory for KV cannot be pinned: lower --host-kv (%s)", inGiB(hostBytes).c_str(), cause.c_str());
  }
  return Status::ok;
}

Status CudaStore::reserveDevice() {
  const size_t bytes = bytesOf(Memory::device);
  const Status status = deviceMemory_.reserve(*gpu_, bytes);
  const std::string cause = status == Status::ok ? "" : lastMessage();
  size_t free = 0;
  size_t total = 0;
  const Status told = gpu_->memory(&free, &total);
  if (status != Status::ok) {
    return fail(Status::noMemory, "GPU %d has no %s for KV (%s of %s are free): lower --device-kv (%s)", device, inGiB(bytes).c_str(), inGiB(free).c_str(),
                inGiB(total).c_str(), cause.c_str());
  }
  if (told != Status::ok || free >= driverBytes) return told;
  return fail(Status::noMemory, "%s for KV leave %s of GPU %d to its driver, which needs %s for kernels and graphs: lower --device-kv", inGiB(bytes).c_str(),
              inGiB(free).c_str(), device, inGiB(driverBytes).c_str());
}

CudaStore::~CudaStore() {
  if (gpu_ == nullptr || gpu_->enter() != Status::ok) return;
  for (const auto& line : lines_) {
    // The memories go next: nothing may be under way to or from them.
    if (line->adrift) drained(*line);
    closeLine(*line);
  }
  for (const Event event : stepEvents_) {
    if (event != nullptr) gpu_->driver().eventDestroy(event);
  }
}

Status CudaStore::openLine(std::unique_ptr<Line>* line) {
  const Driver& driver = gpu_->driver();
  auto fresh = std::make_unique<Line>();
  Status status = check(driver.streamCreate(&fresh->stream, streamNonBlocking, defaultPriority), "cuStreamCreateWithPriority");
  for (Event& event : fresh->events) {
    if (status == Status::ok) status = check(driver.eventCreate(&event, eventBlockingSync | eventDisableTiming), "cuEventCreate");
  }
  if (status == Status::ok) {
    *line = std::move(fresh);
  } else {
    closeLine(*fresh);
  }
  return status;
}

void CudaStore::closeLine(Line& line) {
  for (const Event event : line.events) {
    if (event != nullptr) gpu_->driver().eventDestroy(event);
  }
  if (line.stream != nullptr) gpu_->driver().streamDestroy(line.stream);
}

Status CudaStore::copy(Direction direction, const std::vector<Piece>& pieces) {
  Status status = gpu_->enter();
  if (status != Status::ok) return status;
  std::vector<Piece> ordered;
  if (direction == Direction::deviceToDevice) {
    status = orderWithin(pieces, &ordered);
    if (status != Status::ok) return status;
  }
  Use use(*this, direction);
  status = use.open();
  if (status != Status::ok) return status;
  return transfer(use, direction, direction == Direction::deviceToDevice ? ordered : pieces);
}

Status CudaStore::transfer(Use& use, Direction direction, const std::vector<Piece>& pieces) {
  Line& line = use.line();
  Cutter cutter(pieces);
  Piece chunk[chunkCopies];
  int before = -1;  // index of the event of the chunk before
  for (size_t count = cutter.next(chunk); count > 0; count = cutter.next(chunk)) {
    holdBack();
    Status status = before < 0 ? followSteps(line) : Status::ok;
    if (status == Status::ok) status = issue(line, direction, chunk, count);
    int event = 0;
    while (event == line.landed || event == before) event++;
    if (status == Status::ok) status = finishChunk(line, event, before);
    if (status != Status::ok) return abandon(use, status);
    before = event;
  }
  if (before < 0) return Status::ok;
  const Status status = check(gpu_->driver().eventSynchronize(line.events[before]), "cuEventSynchronize");
  if (status != Status::ok) return abandon(use, status);
  land(line, before);
  return Status::ok;
}

// Marks the end of a chunk with one event and waits for the chunk before it.
Status CudaStore::finishChunk(Line& line, int event, int before) {
  const Driver& driver = gpu_->driver();
  const Status status = check(driver.eventRecord(line.events[event], line.stream), "cuEventRecord");
  if (status != Status::ok || before < 0) return status;
  return check(driver.eventSynchronize(line.events[before]), "cuEventSynchronize");
}

Status CudaStore::followSteps(Line& line) {
  // Under the lock, so that the event is not meanwhile recorded for a step yet to come, for which no copy should wait.
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stepReturned_ < 0) return Status::ok;
  return check(gpu_->driver().streamWaitEvent(line.stream, stepEvents_[stepReturned_], 0), "cuStreamWaitEvent");
}

void CudaStore::holdBack() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!announced_) return;
  const auto until = announcedUntil_;
  issued_.wait_until(lock, until, [this] { return !announced_; });
}

Status CudaStore::issue(Line& line, Direction direction, const Piece* pieces, size_t count) {
  const Address host = addressOf(hostMemory_.data());
  const Address source = direction == Direction::hostToDevice ? host : deviceMemory_.address();
  const Address target = direction == Direction::deviceToHost ? host : deviceMemory_.address();
  // A batch of one would be a call with more to check. Within the device the order of the list counts, which no batch keeps.
  if (batch_ && count > 1 && direction != Direction::deviceToDevice) {
    Address to[chunkCopies];
    Address from[chunkCopies];
    size_t bytes[chunkCopies];
    for (size_t i = 0; i < count; i++) {
      to[i] = target + pieces[i].to;
      from[i] = source + pieces[i].from;
      bytes[i] = pieces[i].bytes;
    }
    const int result = issueBatch(line, to, from, bytes, count);
    const bool refused = result == invalidValueResult || result == notSupportedResult;
    if (!refused) return check(result, gpu_->driver().copyBatch != nullptr ? "cuMemcpyBatchAsync_v2" : "cuMemcpyBatchAsync");
    // Plainly from now on. What of the list may be under way is done again: the same bytes to the same places.
    batch_ = false;
  }
  Status status = Status::ok;
  for (size_t i = 0; i < count && status == Status::ok; i++) {
    status = issueOne(line, direction, target + pieces[i].to, source + pieces[i].from, pieces[i].bytes);
  }
  return status;
}

int CudaStore::issueBatch(Line& line, Address* to, Address* from, size_t* bytes, size_t count) {
  MemcpyAttributes attributes{streamOrder, {0, 0}, {0, 0}, preferOverlapWithCompute};
  size_t first = 0;
  const Driver& driver = gpu_->driver();
  if (driver.copyBatch != nullptr) return driver.copyBatch(to, from, bytes, count, &attributes, &first, 1, line.stream);
  size_t failed = 0;
  return driver.copyBatchFirst(to, from, bytes, count, &attributes, &first, 1, &failed, line.stream);
}

Status CudaStore::issueOne(Line& line, Direction direction, Address to, Address from, size_t bytes) {
  const Driver& driver = gpu_->driver();
  if (direction == Direction::hostToDevice) {
    return check(driver.copyHostToDevice(to, reinterpret_cast<const void*>(from), bytes, line.stream), "cuMemcpyHtoDAsync_v2");
  }
  if (direction == Direction::deviceToHost) {
    return check(driver.copyDeviceToHost(reinterpret_cast<void*>(to), from, bytes, line.stream), "cuMemcpyDtoHAsync_v2");
  }
  return check(driver.copyDeviceToDevice(to, from, bytes, line.stream), "cuMemcpyDtoDAsync_v2");
}

// After a failure: waits until nothing of the transfer is in flight, since its blocks are about to be used for something
// else, and answers the cause. Where not even that can be waited for, at least the memories stay until it is.
Status CudaStore::abandon(Use& use, Status cause) {
  const std::string message = lastMessage();
  Line& line = use.line();
  line.adrift = !drained(line);
  return fail(cause, line.adrift ? "%s; what was already under way could not be waited for" : "%s", message.c_str());
}

// Waits for all that was put on the line. The second try is for a driver that failed the call itself and not what it is
// about.
bool CudaStore::drained(Line& line) {
  const Driver& driver = gpu_->driver();
  const Event event = line.events[line.landed == 0 ? 1 : 0];
  for (int attempt = 0; attempt < 2; attempt++) {
    if (driver.eventRecord(event, line.stream) == successResult && driver.eventSynchronize(event) == successResult) return true;
  }
  return false;
}

void CudaStore::land(Line& line, int event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  line.landed = event;
  line.adrift = false;
  line.landing = ++landings_;
}

// Through pinned memory, as every copy: the caller's buffer may lie anywhere. One of target and source is null.
Status CudaStore::moveStaged(Direction direction, size_t offset, uint8_t* target, const uint8_t* source, size_t bytes) {
  Status status = gpu_->enter();
  if (status != Status::ok) return status;
  PinnedMemory staging;
  status = staging.reserve(*gpu_, std::min(bytes, stagingBytes));
  if (status != Status::ok) return status;
  Use use(*this, direction);
  status = use.open();
  if (status != Status::ok) return status;
  Line& line = use.line();
  const int event = line.landed == 0 ? 1 : 0;
  status = followSteps(line);
  for (size_t done = 0; done < bytes && status == Status::ok; done += staging.bytes()) {
    const size_t part = std::min(staging.bytes(), bytes - done);
    const Address memory = deviceMemory_.address() + offset + done;
    const Address buffer = addressOf(staging.data());
    const bool up = direction == Direction::hostToDevice;
    if (up) memcpy(staging.data(), source + done, part);
    status = issueOne(line, direction, up ? memory : buffer, up ? buffer : memory, part);
    if (status == Status::ok) status = finishChunk(line, event, event);
    if (!up && status == Status::ok) memcpy(target + done, staging.data(), part);
  }
  if (status != Status::ok) return abandon(use, status);
  land(line, event);
  return Status::ok;
}

Status CudaStore::read(Memory memory, size_t offset, uint8_t* target, size_t bytes) {
  if (memory == Memory::device) return moveStaged(Direction::deviceToHost, offset, target, nullptr, bytes);
  memcpy(target, hostMemory_.data() + offset, bytes);
  return Status::ok;
}

Status CudaStore::write(Memory memory, size_t offset, const uint8_t* source, size_t bytes) {
  if (memory == Memory::device) return moveStaged(Direction::hostToDevice, offset, nullptr, source, bytes);
  memcpy(hostMemory_.data() + offset, source, bytes);
  return Status::ok;
}

void CudaStore::announceStep() {
  const std::lock_guard<std::mutex> lock(mutex_);
  announced_ = true;
  announcedUntil_ = std::chrono::steady_clock::now() + announcedFor;
}

Status CudaStore::stepWaits(Stream compute) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t seen = compute == seenBy_ ? landingsSeen_ : 0;
  for (const auto& line : lines_) {
    if (line->landing <= seen) continue;
    const Status status = check(gpu_->driver().streamWaitEvent(compute, line->events[line->landed], 0), "cuStreamWaitEvent");
    if (status != Status::ok) return status;
  }
  seenBy_ = compute;
  landingsSeen_ = landings_;
  return Status::ok;
}

Status CudaStore::stepIssued(Stream compute) {
  Status status = Status::ok;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stepIssued_ = stepReturned_ == 0 ? 1 : 0;
    status = check(gpu_->driver().eventRecord(stepEvents_[stepIssued_], compute), "cuEventRecord");
    if (status != Status::ok) stepIssued_ = -1;
    announced_ = false;
  }
  issued_.notify_all();
  return status;
}

void CudaStore::stepReturned() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stepIssued_ < 0) return;
  stepReturned_ = stepIssued_;
  stepIssued_ = -1;
}

}  // namespace fastswitch::cuda
