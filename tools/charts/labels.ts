/** Finds a place for the label of each way: on one of its straight parts, clear of states, other labels and other ways. */
import type { Layout, Point } from './layout.js';

const CHARACTER_WIDTH = 6.1;
const PADDING = 3;
const HEIGHT = 12;
const SHARES = [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8];

interface Rectangle {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

interface Part {
  readonly from: Point;
  readonly to: Point;
}

/** In the order of the labels; long ways with few parts to choose from are served as they come. */
export function labelPlaces(labels: readonly string[], { boxes, routes, width, height }: Layout): Point[] {
  const inner = [...boxes.entries()].filter(([path]) => ![...boxes.keys()].some((other) => other.startsWith(`${path}.`)));
  const states = inner.map(([, { x, y, width: w, height: h }]) => around({ x, y }, w, h));
  const taken: Rectangle[] = [];
  return labels.map((label, index) => {
    const own = partsOf(routes[index] as readonly Point[]);
    const others = routes.filter((_, other) => other !== index).flatMap(partsOf);
    const size = label.length * CHARACTER_WIDTH + 2 * PADDING;
    const cost = (point: Point, flat: boolean) => {
      const room = around(point, size, HEIGHT);
      const outside = room.left < 0 || room.right > width || room.top < 0 || room.bottom > height;
      return (
        100 * states.filter((state) => overlap(state, room)).length +
        100 * taken.filter((other) => overlap(other, room)).length +
        10 * others.filter((part) => overlap(boundsOf(part), room)).length +
        (outside ? 50 : 0) +
        (flat ? 0 : 1)
      );
    };
    const places = own.flatMap((part) => SHARES.map((share) => ({ point: between(part, share), part })));
    const costs = places.map(({ point, part }) => cost(point, isFlat(part)) - length(part) / 1000);
    const best = places[costs.indexOf(Math.min(...costs))]?.point as Point;
    taken.push(around(best, size, HEIGHT));
    return best;
  });
}

function partsOf(route: readonly Point[]): Part[] {
  return route.slice(1).map((to, index) => ({ from: route[index] as Point, to }));
}

const length = ({ from, to }: Part) => Math.abs(to.x - from.x) + Math.abs(to.y - from.y);
const isFlat = ({ from, to }: Part) => Math.abs(to.y - from.y) < 1;

function between({ from, to }: Part, share: number): Point {
  return { x: from.x + (to.x - from.x) * share, y: from.y + (to.y - from.y) * share };
}

function around({ x, y }: Point, width: number, height: number): Rectangle {
  return { left: x - width / 2, right: x + width / 2, top: y - height / 2, bottom: y + height / 2 };
}

function boundsOf({ from, to }: Part): Rectangle {
  return {
    left: Math.min(from.x, to.x),
    right: Math.max(from.x, to.x),
    top: Math.min(from.y, to.y),
    bottom: Math.max(from.y, to.y),
  };
}

function overlap(a: Rectangle, b: Rectangle): boolean {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
