/** The explanation in `docs/evaluation/fairness.md`, around the figures. */

export const OPENING = `# Fairness

Who is served first when several tenants ask for more than there is. The policies are compared in virtual time: the scheduler, actors and charts are those that serve, steps and copies come from a cost model with a seeded error. No GPU was used.

**Service** of a tenant is what was computed for it: a prompt token counts 1, a generated one 2 (\`promptPrice\`, \`tokenPrice\`), as in *Fairness in Serving Large Language Models* (Sheng et al., OSDI 2024), whose virtual token counters (VTC) are the policy \`vtc\`. Ours, \`fair\`, is VTC that preempts by swapping; it is the server's default.`;

export const EXPLANATION = `## How \`fair\` decides

- **A counter for each tenant**: the service it has had, over its weight. A token is paid for in the step that computes it, not at admission, so that a counter is never ahead of the machine.
- **Found tokens are free**, because nobody waited for them; a tenant whose chats are found in the two memories takes less from others and gets further. So is what is computed a second time: a request loses its KV for somebody else's sake.
- **A line for each tenant**: whoever starved, then by \`priority\` (lower first), then by arrival. So a client's \`priority\` orders the requests of its own tenant and takes nothing from others.
- **A tag for each request**: where the counter of its tenant will be when its turn comes, if each request before it in the line gets a quantum of tokens and the rest of its prompt. Requests are served in order of their tags. With four tenants level and ten places, weights 1:2:3:4 get 1, 2, 3 and 4 of them at once, before anybody has paid for anything.
- **Preemption** between tenants: only if the claimant could be served for a whole quantum and would still have the lower tag. Two that are level leave each other alone; after a switch, one of them has to get a quantum ahead, and then another, until the next. Nobody is preempted where that does not suffice, and no more than suffices.
- **The quantum** follows from what a switch is predicted to cost: so many tokens that copying both ways (or computing again) takes at most a fifth of the time in which a request gets them, at least 16, at most \`quantumTokens\`. It changes by powers of two, and only when the prediction is off by more than that.
- **Who comes** begins at the least counter of those who wait: nobody saves up by staying away, nor by asking for little for a while. Where nobody waits it begins at the greatest: nobody was kept from anything, so what one had is no debt. Idle tenants at or below that mark are forgotten, since coming back they would begin there.
- **One tenant alone** (a server without tenants) is served in order of arrival, and nobody is preempted but for room: the same decisions as \`fcfs\`, event by event (a test compares them).

## The bound

Two tenants are *continuously backlogged* while both have somebody waiting. The published, non-preemptive form keeps their counters within max(w_p L, w_q M) of each other, so that over any interval the service they get differs by at most **2 max(w_p L, w_q M)**: w_p and w_q the prices, L the longest prompt, M what the device holds. Without preemption little less can be promised, because a batch that is running may go on to the end of its memory.

For \`fair\`, let i be ahead of j by c_i - c_j, both backlogged, and look at the moment between two steps after placement. Let f be the first of j that waits. Before f in its line are requests of j that have the device, at most S of them (S: places), so

- tag(f) <= c_j + S q_j + P_j, where q_j = w_q Q / weight_j is the quantum, and P_j the price of those of their prompt tokens that are still to be computed, at most w_p min(S L, M) / weight_j.

Whoever is first in line overall has no higher tag than f, and is a quantum q away from outranking those with higher tags. Every request of i that runs has a tag of at least c_i. So if c_i - c_j were more than S q_j + P_j + q, all requests of i that run would be outranked by everyone in line up to f, and would have been preempted until f had its place; f would not wait. Hence between steps c_i - c_j <= S q_j + P_j + q_max. During a step i gets at most U = w_p x (tokens of a step) + w_q S, and another step may pass where a victim is not ripe yet or is being mirrored:

> **c_i - c_j <= ((S + 1) w_q Q + w_p min(S L, M) + 2 U) / (least weight)**

This assumes that what f's turn needs can be had from those it outranks. Where a request is so large that it also needs the room of others who rank above it, those may go on to their ends, as in the published form; nobody of i is admitted meanwhile, so w_q M is added. It also assumes one step for a switch; with slower copies each further step adds U. The starvation bound changes nothing here: it reorders the line of a tenant and not the tenants.

Both bounds are property tests over random crowds (\`test/core/fair.test.ts\`): two to four tenants of random weights, prompts, lengths and priorities, scarce places or scarce memory.

Where the published form differs from ours beyond preemption: \`vtc\` as this project has it lifts a tenant that had no request alive. One that asks for little always has one, so it saves up, and whoever it shares with pays when it asks for more: the shifting mix below shows it. \`fair\` lifts whoever had nobody waiting.

## Weighed switches, starvation, deadlines

- **Weighed** (all policies of \`default\`): what a claimant gains is the place for as long as its victim would have kept it; the usual guess for that is as long again as the victim has had it. So a victim gives way when it has had the device for as long as the switch is predicted to cost: copies both ways, or computing it again where the host has no room; and never in the midst of computing what would then be lost. Whatever ranks do, at most half of the time goes into switching (a fifth where ranks are nearly equal: the quantum), and whoever is computed again gets somewhere, also in a feedback queue.
- **Starvation** (\`fair\`, \`priority\`): whoever was in no step for \`starvationSeconds\` goes first until it has been served for an eighth of that time and has got a token: in the line of its tenant under \`fair\`, of all under \`priority\`. It goes by the server's clock, so nothing that a client says hastens it; and at most an eighth of the places is held that way at a time (of one tenant, or of all), the longest waiting first, so a flood of low priority that starves gets an eighth and no more. A request therefore waits at most starvationSeconds + ceil(k / places of the starved) x (starvationSeconds / 8 + a switch), k being those who have waited longer.
- **\`edf\`**: the first token is due at the promised TTFT, token n after it n times the promised TBT after it, so whoever is ahead of its pace can do without the device for a while. Who was promised nothing is due when it would starve.
- **\`trace\`** is no policy of its own: priorities drawn offline (the Random and Markov patterns of \`simulate\`) are \`priority\` with \`reprioritized\` events, by the same door by which an operator changes one.`;

export const LIVE = `## The live server

\`npm run bench:tenants\`: the demo model, 16 MiB of device KV, one tenant with 64 chats of 400 tokens at a time and another with one short chat a second; clients and server share two cores. What the light tenant waits for there is less the scheduler's doing than in virtual time: a step takes 2 to 3 ms, and every thread that has to be woken on full cores costs up to one.

On a machine with nothing else to do (\`npm run bench:tenants -- --rounds 2 --seconds 100\`, 200 light chats beside each): TTFT of the light tenant P50 13.0 and P99 44.4 ms beside the flood under \`fair\`, 6.7 and 26.2 ms on an idle server (1.95 and 1.7 times; the limit that was set is twice and a step of 2.2 ms), 1,410 and 2,502 ms under \`fcfs\`. Of that the scheduler and the engine have 7.0 and 24.6 ms, idle 1.7 and 4.2. Tokens a second are 1.02 of those of \`fcfs\` (0.93 in one round of 60 s before). Tenants of weights 1, 2, 3 and 4 that flood together had 10.0, 20.0, 30.1 and 39.9 %.

Some of the stages, timed one by one before and after what helped (ms, 60 chats each; other work had more of the machine in the first run than in the second, so a third less in every stage means nothing):

| stage | before: P50 / P90 / P99 | with no watchdog: P50 / P90 / P99 |
|---|---:|---:|
| until the server hears of it | 0.90 / 9.7 / 301 | 1.2 / 4.6 / 7.2 |
| rendering the chat, tokenising | 1.3 / 12.0 / 283 | 0.43 / 0.59 / 1.0 |
| from the scheduler's hearing of it to its place on the device | 2.5 / 8.4 / 21.1 | 1.8 / 6.3 / 48.1 |
| its step | 5.2 / 10.6 / 22.2 | 3.6 / 6.5 / 15.6 |
| from there to the thread that serves streams | 0.87 / 5.1 / 64.5 | 0.63 / 2.4 / 6.0 |
| all of it, client to client | 22.4 / 141 / 368 | 14.8 / 26.9 / 76.7 |

What was in the way, in the order of what it cost:

- **The chat template's watchdog.** A template runs under a time limit, and what can interrupt it anywhere is a thread, made for each request and waited for at its end. On full cores the thread that serves all streams stood still until that one had had its turn. Now a rendering looks at the clock itself and is watched only if it takes long ([decision 6](../decisions/0006-http-face.md)). That is what the table shows.
- **A round trip for each short swap.** A decision may bring in twenty requests of a block each: a few microseconds of copying, but each waited for the word of the one before, and the step waited for all of them: steps stood still for up to 80 ms. Now they go together. In virtual time, with 1.5 ms from the end of a copy to its event (\`test/simulation/flood.test.ts\`): the longest standstill 27.1 ms before and 6.4 ms after, the light tenant's TTFT P99 25.0 and 15.0 ms (2.3 ms alone), 5 % more tokens.
- **The clients' own.** Who measured read 64 streams beside its own, on one thread. Who floods now has another.

What is left is the step that runs, its own step, where somebody has to leave first the step between, and half a dozen threads to wake.`;

export const LIMITS = `## What this does not show

- The machine is a model, and one machine. The live server was measured with a small model on two cores that clients share; there the light tenant's P99 differed by half between runs, idle as well as beside the flood.
- Preempting is not free for everybody: under \`fair\` a tenant that asks for more than its share is swapped out and in all the time, thousands of times in these runs. Its tokens come in spells.
- Where every conversation is a tenant of its own (\`simulate --pattern none\`), fairness is between conversations: short ones answer at once and long ones wait. On llama8b-a10 with 200 conversations, seed 1, TTFT P50 is 0.20 s against 1.82 s under \`fcfs\`, and P99 37 s against 15 s. A tenant should be somebody who is to get a share.
- The property tests use copies that take about a step; where a copy outlives many steps, the bound grows by what a step brings for each of them.
- A feedback queue (\`mlfq\`) without host memory goes in circles under presets that do not weigh; weighed, it ends.
- Without host memory the default preset under \`priority\` now makes 1.65 to 1.9 times the tokens of before and recomputes a sixth to an eighth as often; its TTFT P99 is still behind that of vllm-0.3 (43 and 30 s against 35 and 27 s, before 67 and 60 s; llama8b-a10, random, 200 conversations, seeds 1 and 2), at twice its tokens per second.`;
