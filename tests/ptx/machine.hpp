// A machine that runs kernels as `translator.py` encodes them: blocks one after the other, the warps of a block in an
// order drawn from a seed, the lanes of a warp in lock step. Lanes that part at a branch run one side after the other
// and meet again at the branch's immediate post-dominator. The machine counts what warps do between barriers, refuses
// accesses outside of the memory that it was given, and, if asked, reports races: two accesses of one word by
// different threads, one of them at least a plain one and one a write, with no barrier between.
#pragma once

struct Counts {  // of a phase, that is, from one barrier to the next
    int64_t warp_instructions, thread_instructions, float64, requests, sectors, atomics, shared, barriers;
};

struct Program {
    const Instruction* instructions;
    int32_t n_instructions;
    const char* constants;
    int32_t n_registers, shared_bytes, local_bytes;
};

struct Launch {
    uint32_t blocks_x, blocks_y, threads;
    int64_t dynamic_bytes;
    const char* parameters;
    const uint64_t* allocations;  // starts and ends, ascending
    int64_t n_allocations;
    uint32_t seed;
    int32_t find_races;
    int64_t most_instructions;
    Counts* counts;
};

struct Random {
    uint64_t state;
    uint32_t next(uint32_t below) {  // xorshift*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return (uint32_t)((state * 0x2545f4914f6cdd1dull >> 32) * below >> 32);
    }
};

// -- races ---------------------------------------------------------------------------------------------------------

// Who last touched two bytes of memory: between which barriers (epoch), and which thread, numbered over the grid;
// SEVERAL if it was more than one thread of a block.
constexpr uint32_t THREAD_BITS = 11, SEVERAL = (1u << THREAD_BITS) - 1;
struct Touch {
    uint32_t epoch = 0, thread = 0;
};
struct Touches {
    Touch by[2][2];  // [written][by an atomic or volatile access]
};

class Races {
   public:
    // Whether an access races with an earlier one.
    bool touch(uint64_t address, int bytes, uint32_t thread, uint32_t epoch, bool writes, bool is_strong) {
        bool found = false;
        for (uint64_t at = address >> 1; at < (address + bytes + 1) >> 1; ++at) {
            Touches& touches = page(at);
            for (int written = 0; written < 2; ++written)
                for (int strong = 0; strong < 2; ++strong) {
                    if ((!written && !writes) || (strong && is_strong)) continue;
                    found |= conflict(touches.by[written][strong], thread, epoch);
                }
            Touch& mine = touches.by[writes][is_strong];
            const bool shared = mine.epoch == epoch && mine.thread != thread;
            mine.thread = shared ? thread | SEVERAL : thread;
            mine.epoch = epoch;
        }
        return found;
    }

   private:
    static bool conflict(const Touch& before, uint32_t thread, uint32_t epoch) {
        if (!before.epoch || before.thread == thread) return false;
        return before.epoch == epoch || before.thread >> THREAD_BITS != thread >> THREAD_BITS;  // nothing orders two blocks
    }
    Touches& page(uint64_t at) {
        std::vector<Touches>& all = pages[at >> 9];
        if (all.empty()) all.resize(512);
        return all[at & 511];
    }
    std::unordered_map<uint64_t, std::vector<Touches>> pages;
};

// -- a block -------------------------------------------------------------------------------------------------------

class Block {
   public:
    Block(const Program& program, const Launch& launch, Random& random, Races& races, int64_t& budget)
        : program(program), launch(launch), random(random), races(races), budget(budget),
          n_warps((launch.threads + LANES - 1) / LANES), shared(program.shared_bytes + launch.dynamic_bytes),
          local((size_t)launch.threads * program.local_bytes),
          registers((size_t)n_warps * program.n_registers * SLOT + SLOT), warps(n_warps),
          near(program.n_instructions) {}

    void run(uint32_t x, uint32_t y, uint32_t& epoch) {
        start(x, y);
        for (;;) {
            this->epoch = ++epoch;
            run_to_barrier();
            int barrier = 0;
            for (const Warp& warp : warps) barrier = std::max(barrier, warp.waiting);
            if (!barrier) return;
            for (Warp& warp : warps) {
                if (warp.waiting != barrier)
                    throw Trouble(warp.paths.empty() ? "threads have left the kernel while others wait at a barrier"
                                                     : "threads of one block wait at different barriers");
                warp.waiting = 0;
                warp.phase = barrier;
            }
            ++launch.counts[barrier].barriers;
        }
    }

    int at = 0;  // the instruction that runs

   private:
    const Program& program;
    const Launch& launch;
    Random& random;
    Races& races;
    int64_t& budget;
    const int n_warps;
    std::vector<char> shared, local, registers;
    std::vector<Warp> warps;
    std::vector<std::pair<uint64_t, uint64_t>> near;  // the allocation that each instruction last used
    uint32_t number = 0, epoch = 0;

    void start(uint32_t x, uint32_t y) {
        number = y * launch.blocks_x + x;
        memset(shared.data(), 0xCD, shared.size());
        memset(local.data(), 0xCD, local.size());
        char* first = registers.data() + (SLOT - (uintptr_t)registers.data() % SLOT) % SLOT;
        const uint32_t values[N_SPECIAL] = {0, launch.threads, x, y, launch.blocks_x, launch.blocks_y};
        for (int w = 0; w < n_warps; ++w) {
            Warp& warp = warps[w];
            const uint32_t live = launch.threads - w * LANES, lanes = live >= LANES ? EVERY_LANE : (1u << live) - 1;
            char* own = first + (size_t)w * program.n_registers * SLOT;
            warp = {own, program.constants, w * LANES, 0, 0, lanes, {{0, END, lanes}}};
            for (int s = 0; s < N_SPECIAL; ++s)
                for (int l = 0; l < LANES; ++l)
                    lanes_of<uint32_t>(warp, s)[l] = s == THREAD ? (uint32_t)(w * LANES + l) : values[s];
        }
    }

    // With seed 0 warps take turns of some instructions each. Otherwise which warp is next and for how long is drawn:
    // mostly short turns, at times one so long that a warp is at the barrier before others have begun.
    void run_to_barrier() {
        std::vector<int> runnable;
        for (int w = 0; w < n_warps; ++w)
            if (!warps[w].paths.empty()) runnable.push_back(w);
        for (size_t turn = 0; !runnable.empty();) {
            if (launch.seed) turn = random.next((uint32_t)runnable.size());
            Warp& warp = warps[runnable[turn]];
            for (int left = launch.seed ? 1 << random.next(14) : 16; left && !warp.paths.empty() && !warp.waiting; --left)
                step(warp);
            if (warp.paths.empty() || warp.waiting)
                runnable.erase(runnable.begin() + turn);
            else
                ++turn;
            if (turn >= runnable.size()) turn = 0;
        }
    }

    void step(Warp& warp) {
        Path& path = warp.paths.back();
        at = path.at;
        const Instruction& i = program.instructions[at];
        uint32_t lanes = path.lanes;
        if (i.predicate != NO_PREDICATE) {
            const uint32_t yes = *lanes_of<uint32_t>(warp, i.predicate);
            lanes &= i.negated ? ~yes : yes;
        }
        Counts& counts = launch.counts[warp.phase];
        if (!i.is_free) {
            ++counts.warp_instructions;
            counts.thread_instructions += __builtin_popcount(i.kind == BRANCH ? path.lanes : lanes);
            if (i.is_float64) counts.float64 += __builtin_popcount(lanes);
        }
        if (--budget < 0) throw Trouble("the kernel runs on and on");
        if (i.kind == BRANCH) return branch(warp, i, lanes);
        if (i.kind == EXIT) return leave(warp, lanes);
        if (i.kind == BARRIER) {
            if (lanes != warp.lanes) throw Trouble("some threads of a warp reach a barrier without the others");
            warp.waiting = i.phase;
        } else if (lanes) {
            if (i.kind == COMPUTE) OPERATIONS[i.operation](warp, i, lanes);
            else if (i.kind == PARAMETER) load_parameter(warp, i, lanes);
            else if (i.kind != NOTHING) access(warp, i, lanes, counts);
        }
        go_on(warp, at + 1);
    }

    static void go_on(Warp& warp, int at) {
        Path& path = warp.paths.back();
        path.at = at;
        if (at == path.until && warp.paths.size() > 1) warp.paths.pop_back();
    }

    void branch(Warp& warp, const Instruction& i, uint32_t taken) {
        Path& path = warp.paths.back();
        const uint32_t others = path.lanes & ~taken;
        if (!others) return go_on(warp, i.target);
        if (!taken) return go_on(warp, at + 1);
        Path sides[2] = {{at + 1, i.meeting, others}, {i.target, i.meeting, taken}};
        if (launch.seed && random.next(2)) std::swap(sides[0], sides[1]);
        // Where they meet, all go on. If that is where this path ends, what is under it already goes on there.
        if (i.meeting == path.until && warp.paths.size() > 1) warp.paths.pop_back();
        else path.at = i.meeting;
        for (const Path& side : sides)
            if (side.at != i.meeting) warp.paths.push_back(side);
    }

    void leave(Warp& warp, uint32_t lanes) {
        go_on(warp, at + 1);
        for (Path& path : warp.paths) path.lanes &= ~lanes;
        std::erase_if(warp.paths, [](const Path& path) { return !path.lanes; });
    }

    // -- memory ----------------------------------------------------------------------------------------------------

    void load_parameter(const Warp& warp, const Instruction& i, uint32_t lanes) {
        uint64_t value = 0;
        memcpy(&value, launch.parameters + i.offset, i.bytes);
        for (uint32_t m = lanes; m; m &= m - 1) put(warp, i, 0, __builtin_ctz(m), value);
    }

    void put(const Warp& warp, const Instruction& i, int k, int lane, uint64_t value) {
        if (i.is_signed) value = (uint64_t)((int64_t)(value << (64 - 8 * i.bytes)) >> (64 - 8 * i.bytes));
        memcpy(lanes_of<char>(warp, i.result[k]) + lane * i.register_bytes, &value, i.register_bytes);
    }

    uint64_t get(const Warp& warp, const Instruction& i, int k, int lane) {
        uint64_t value = 0;
        memcpy(&value, lanes_of<char>(warp, i.source[k]) + lane * i.register_bytes, i.register_bytes);
        return value;
    }

    // Where an address is; `address` becomes one within its space.
    char* place_of(const Warp& warp, const Instruction& i, int lane, uint64_t& address, int& space) {
        const int bytes = i.bytes * i.width;
        space = i.space;
        if (space == ANY) {
            space = address - SHARED_WINDOW < WINDOW ? SHARED : address - LOCAL_WINDOW < WINDOW ? LOCAL : GLOBAL;
            if (space != GLOBAL) address -= space == SHARED ? SHARED_WINDOW : LOCAL_WINDOW;
        }
        if (address % bytes) complain("misaligned access", warp, lane, address, space);
        if (space == SHARED) {
            if (address + bytes > shared.size()) complain("access outside", warp, lane, address, space);
            return shared.data() + address;
        }
        if (space == LOCAL) {
            if (address + bytes > (uint64_t)program.local_bytes) complain("access outside", warp, lane, address, space);
            return local.data() + (size_t)(warp.first_thread + lane) * program.local_bytes + address;
        }
        auto& known = near[at];
        if (address < known.first || address + bytes > known.second) {
            const uint64_t* all = launch.allocations;
            const uint64_t after = std::upper_bound(all, all + 2 * launch.n_allocations, address) - all;
            if (after % 2 == 0 || address + bytes > all[after]) complain("access outside", warp, lane, address, space);
            known = {all[after - 1], all[after]};
        }
        return (char*)address;
    }

    [[noreturn]] void complain(const char* what, const Warp& warp, int lane, uint64_t address, int space) {
        static const char* names[] = {"", "global", "shared", "local"};
        char text[200];
        snprintf(text, sizeof text, "%s of %s memory at 0x%llx", what, names[space], (unsigned long long)address);
        throw Trouble(std::string(text) + by(warp, lane));
    }

    std::string by(const Warp& warp, int lane) {
        return ", thread " + std::to_string(warp.first_thread + lane) + " of block " + std::to_string(number);
    }

    void access(const Warp& warp, const Instruction& i, uint32_t lanes, Counts& counts) {
        const char* bases = lanes_of<char>(warp, i.source[0]);
        uint64_t addresses[LANES];
        char* places[LANES];
        int n_shared = 0, n_global = 0, order[LANES], n = 0;
        for (uint32_t m = lanes; m; m &= m - 1) order[n++] = __builtin_ctz(m);
        if (launch.seed && n > 1) std::rotate(order, order + random.next(n), order + n);
        uint64_t sectors[LANES];
        for (int o = 0; o < n; ++o) {
            const int lane = order[o];
            int space;
            uint64_t base = 0;
            memcpy(&base, bases + lane * i.address_bytes, i.address_bytes);
            addresses[lane] = base + i.offset;
            places[lane] = place_of(warp, i, lane, addresses[lane], space);
            if (space == GLOBAL) sectors[n_global++] = addresses[lane] / 32;
            n_shared += space == SHARED;
            if (launch.find_races && space != LOCAL) check_race(warp, i, lane, addresses[lane], space);
        }
        count(i, counts, sectors, n_global, n_shared);
        if (i.kind == LOAD) load(warp, i, places, order, n);
        if (i.kind == STORE) store(warp, i, places, order, n);
        if (i.kind == ATOMIC_OPERATION) change(warp, i, places, order, n);
    }

    void load(const Warp& warp, const Instruction& i, char** places, const int* order, int n) {
        for (int k = 0; k < i.width; ++k)
            for (int o = 0; o < n; ++o) {
                uint64_t value = 0;
                memcpy(&value, places[order[o]] + k * i.bytes, i.bytes);
                put(warp, i, k, order[o], value);
            }
    }

    void store(const Warp& warp, const Instruction& i, char** places, const int* order, int n) {
        for (int k = 0; k < i.width; ++k)
            for (int o = 0; o < n; ++o) {
                const uint64_t value = get(warp, i, k + 1, order[o]);
                memcpy(places[order[o]] + k * i.bytes, &value, i.bytes);
            }
    }

    void change(const Warp& warp, const Instruction& i, char** places, const int* order, int n) {
        for (int o = 0; o < n; ++o) {
            const uint64_t before =
                ATOMICS[i.operation](places[order[o]], get(warp, i, 1, order[o]), get(warp, i, 2, order[o]));
            if (i.width) put(warp, i, 0, order[o], before);
        }
    }

    // Sectors of 32 bytes that a warp's access of global memory touches: what is moved.
    static void count(const Instruction& i, Counts& counts, uint64_t* sectors, int n_global, int n_shared) {
        counts.shared += n_shared > 0;
        if (!n_global) return;
        ++counts.requests;
        counts.atomics += i.kind == ATOMIC_OPERATION;
        if (!std::is_sorted(sectors, sectors + n_global)) std::sort(sectors, sectors + n_global);
        counts.sectors += std::unique(sectors, sectors + n_global) - sectors;
    }

    void check_race(const Warp& warp, const Instruction& i, int lane, uint64_t address, int space) {
        // The shared memory of each block is its own.
        if (space == SHARED) address += SHARED_WINDOW + (uint64_t)number * WINDOW * 16;
        const bool writes = i.kind != LOAD;
        const uint32_t thread = number << THREAD_BITS | (warp.first_thread + lane);
        if (races.touch(address, i.bytes * std::max(i.width, 1), thread, epoch, writes, i.is_strong))
            throw Trouble(std::string("race in ") + (space == SHARED ? "shared" : "global") + " memory" + by(warp, lane));
    }
};

extern "C" int instruction_bytes() { return sizeof(Instruction); }

extern "C" int run_kernel(const Program* program, const Launch* launch, int32_t* at, char* text, int32_t room) {
    Random random = {launch->seed * 0x9e3779b97f4a7c15ull | 1};
    Races races;
    int64_t budget = launch->most_instructions;
    uint32_t epoch = 0;
    Block block(*program, *launch, random, races, budget);
    try {
        for (uint32_t y = 0; y < launch->blocks_y; ++y)
            for (uint32_t x = 0; x < launch->blocks_x; ++x) block.run(x, y, epoch);
    } catch (const Trouble& trouble) {
        *at = block.at;
        snprintf(text, room, "%s", trouble.text.c_str());
        return 1;
    }
    return 0;
}
