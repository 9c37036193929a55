//! Conditions of a stream's filter about places on the map, as LavinMQ has them: in a circle, a box or a polygon.
//!
//! A message says where it is in the headers `x-geo-lat` and `x-geo-lon`, in degrees. One that says it not, or not
//! rightly, is nowhere.

use crate::codec::{Table, Value};

/// Headers with a message's place.
const LATITUDE: &str = "x-geo-lat";
const LONGITUDE: &str = "x-geo-lon";

/// What names of conditions about places begin with.
pub(super) const PREFIX: &str = "geo-";

/// Corners of a polygon at most.
const CORNERS_MAX: usize = 1_000;

/// Mean radius of the earth.
const EARTH_KM: f64 = 6_371.0;

/// A place, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// -90 to 90.
    latitude: f64,
    /// -180 to 180.
    longitude: f64,
}

impl Point {
    fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let is_one = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        is_one.then_some(Point {
            latitude,
            longitude,
        })
    }

    /// Where a message with these headers is.
    pub(super) fn of(headers: &Table<'_>) -> Option<Self> {
        let degrees = |name| headers.get(name).as_ref().and_then(number);
        Point::new(degrees(LATITUDE)?, degrees(LONGITUDE)?)
    }

    /// The way over the ground, on a ball (haversine formula).
    fn distance_km(self, other: Point) -> f64 {
        let half_sine = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
        let north = half_sine(other.latitude - self.latitude);
        let east = half_sine(other.longitude - self.longitude);
        let parallels = self.latitude.to_radians().cos() * other.latitude.to_radians().cos();
        let chord = (north + parallels * east).clamp(0.0, 1.0);
        2.0 * EARTH_KM * chord.sqrt().asin()
    }
}

/// Where messages have to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Area {
    /// `geo-within-radius`.
    Circle { centre: Point, radius_km: f64 },
    /// `geo-bbox`: from south-west to north-east; it does not reach over the 180th meridian.
    Box { from: Point, to: Point },
    /// `geo-polygon`: its corners, of which the last is next to the first; straight lines on a map with square degrees.
    Polygon(Box<[Point]>),
}

impl Area {
    /// Reads a condition; `None`: it is none.
    pub(super) fn parse(name: &str, value: &Value<'_>) -> Option<Self> {
        let Value::Table(table) = value else {
            return None;
        };
        let given = |key| table.get(key).as_ref().and_then(number);
        match name {
            "geo-within-radius" => {
                let centre = Point::new(given("lat")?, given("lon")?)?;
                let radius_km = given("radius_km").filter(|radius| *radius > 0.0)?;
                Some(Area::Circle { centre, radius_km })
            }
            "geo-bbox" => {
                let from = Point::new(given("min_lat")?, given("min_lon")?)?;
                let to = Point::new(given("max_lat")?, given("max_lon")?)?;
                let is_one = from.latitude <= to.latitude && from.longitude <= to.longitude;
                is_one.then_some(Area::Box { from, to })
            }
            "geo-polygon" => {
                let Value::Array(corners) = table.get("points")? else {
                    return None;
                };
                let mut corners = corners.iter();
                let taken = corners.by_ref().take(CORNERS_MAX).map(|at| corner(&at));
                let taken: Option<Box<[Point]>> = taken.collect();
                let taken = taken.filter(|taken| taken.len() >= 3)?;
                corners.next().is_none().then_some(Area::Polygon(taken))
            }
            _ => None,
        }
    }

    /// Whether a place is in it.
    pub(super) fn has(&self, place: Point) -> bool {
        match self {
            Area::Circle { centre, radius_km } => centre.distance_km(place) <= *radius_km,
            Area::Box { from, to } => {
                (from.latitude..=to.latitude).contains(&place.latitude)
                    && (from.longitude..=to.longitude).contains(&place.longitude)
            }
            Area::Polygon(corners) => {
                // A line from the place to the north crosses the border an odd number of times.
                let before = corners.iter().cycle().skip(corners.len().saturating_sub(1));
                let sides = before.zip(corners.iter());
                let crossed = sides.filter(|(a, b)| {
                    let spans = (a.longitude > place.longitude) != (b.longitude > place.longitude);
                    let part = (place.longitude - a.longitude) / (b.longitude - a.longitude);
                    spans && place.latitude < a.latitude + part * (b.latitude - a.latitude)
                });
                crossed.count() % 2 == 1
            }
        }
    }
}

/// A corner of a polygon: latitude and longitude.
fn corner(value: &Value<'_>) -> Option<Point> {
    let Value::Array(pair) = value else {
        return None;
    };
    let mut pair = pair.iter();
    let (latitude, longitude) = (number(&pair.next()?)?, number(&pair.next()?)?);
    let point = Point::new(latitude, longitude)?;
    pair.next().is_none().then_some(point)
}

/// A number of whatever kind.
fn number(value: &Value<'_>) -> Option<f64> {
    match *value {
        Value::F32(number) => Some(number.into()),
        Value::F64(number) => Some(number),
        Value::Decimal { scale, value } => Some(f64::from(value) / 10_f64.powi(scale.into())),
        _ => value.as_i64().map(|number| number as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::samples::table;
    use crate::codec::{ArrayBuf, TableBuf};

    const BERLIN: (f64, f64) = (52.52, 13.405);
    const POTSDAM: (f64, f64) = (52.4, 13.06);
    const HAMBURG: (f64, f64) = (53.551, 9.994);

    fn point((latitude, longitude): (f64, f64)) -> Point {
        Point::new(latitude, longitude).unwrap()
    }

    fn parse(name: &str, pairs: &[(&str, f64)]) -> Option<Area> {
        let mut of = TableBuf::default();
        for (key, number) in pairs {
            of.put(key, Value::F64(*number)).unwrap();
        }
        Area::parse(name, &Value::Table(of.as_table()))
    }

    fn polygon(corners: &[(f64, f64)]) -> Option<Area> {
        let mut points = ArrayBuf::default();
        for (latitude, longitude) in corners {
            let mut pair = ArrayBuf::default();
            pair.push(Value::F64(*latitude)).unwrap();
            pair.push(Value::F64(*longitude)).unwrap();
            points.push(Value::Array(pair.as_array())).unwrap();
        }
        let of = table(&[("points", Value::Array(points.as_array()))]);
        Area::parse("geo-polygon", &Value::Table(of.as_table()))
    }

    #[test]
    fn distances_are_those_of_an_atlas() {
        let berlin = point(BERLIN);
        assert!((berlin.distance_km(point(HAMBURG)) - 255.0).abs() < 2.0);
        assert!((berlin.distance_km(point(POTSDAM)) - 27.0).abs() < 1.0);
        // Over the 180th meridian, and half around.
        let (east, west) = (point((0.0, 179.5)), point((0.0, -179.5)));
        assert!((east.distance_km(west) - 111.2).abs() < 0.1);
        let far = point((90.0, 0.0)).distance_km(point((-90.0, 0.0)));
        assert!((far - 20_015.0).abs() < 1.0);
    }

    #[test]
    fn a_circle_a_box_and_a_polygon_have_what_is_in_them() {
        let circle = [("lat", BERLIN.0), ("lon", BERLIN.1), ("radius_km", 50.0)];
        let square = [
            ("min_lat", 52.0),
            ("max_lat", 53.0),
            ("min_lon", 13.0),
            ("max_lon", 14.0),
        ];
        let triangle = [(52.0, 12.0), (53.5, 13.3), (52.0, 14.6)];
        for area in [
            parse("geo-within-radius", &circle),
            parse("geo-bbox", &square),
            polygon(&triangle),
        ] {
            let area = area.unwrap();
            assert!(
                area.has(point(BERLIN)) && area.has(point(POTSDAM)),
                "{area:?}"
            );
            assert!(!area.has(point(HAMBURG)), "{area:?}");
        }
        // A dent: between its ends, and not in it.
        let dented = polygon(&[
            (0.0, 0.0),
            (10.0, 0.0),
            (1.0, 5.0),
            (10.0, 10.0),
            (0.0, 10.0),
        ]);
        let dented = dented.unwrap();
        assert!(!dented.has(point((8.0, 5.0))));
        assert!(dented.has(point((8.0, 0.5))) && dented.has(point((0.5, 5.0))));
    }

    #[test]
    fn what_is_no_place_is_nowhere_and_what_is_no_area_is_refused() {
        let at = |latitude, longitude| {
            let headers = table(&[(LATITUDE, latitude), (LONGITUDE, longitude)]);
            Point::of(&headers.as_table())
        };
        assert_eq!(
            at(Value::I32(52), Value::F32(13.5)),
            Some(point((52.0, 13.5)))
        );
        let tenths = Value::Decimal {
            scale: 1,
            value: 525,
        };
        assert_eq!(at(tenths, Value::I64(-13)), Some(point((52.5, -13.0))));
        assert_eq!(at(Value::F64(90.1), Value::I32(0)), None);
        assert_eq!(at(Value::F64(f64::NAN), Value::I32(0)), None);
        assert_eq!(at(Value::LongString(b"52"), Value::I32(0)), None);
        assert_eq!(Point::of(&Table::default()), None);
        let centre = [("lat", 0.0), ("lon", 0.0)];
        let box_of = |south, north| {
            [
                ("min_lat", south),
                ("max_lat", north),
                ("min_lon", 0.0),
                ("max_lon", 1.0),
            ]
        };
        assert_eq!(parse("geo-within-radius", &centre), None);
        let none = [centre[0], centre[1], ("radius_km", 0.0)];
        assert_eq!(parse("geo-within-radius", &none), None);
        assert_eq!(parse("geo-bbox", &box_of(2.0, 1.0)), None);
        assert_eq!(parse("geo-bbox", &box_of(1.0, 91.0)), None);
        assert_eq!(parse("geo-hexagon", &centre), None);
        assert_eq!(polygon(&[(0.0, 0.0), (1.0, 1.0)]), None);
        assert_eq!(polygon(&[(0.0, 0.0); CORNERS_MAX + 1]), None);
        assert!(polygon(&[(0.0, 0.0); CORNERS_MAX]).is_some());
        assert_eq!(Area::parse("geo-bbox", &Value::Void), None);
    }
}
